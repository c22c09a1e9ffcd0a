// A stage's streams where it has several (AltUp), of which one passes through each layer, and its second way past
// attention (LAuReL). x_ is the stream on its way through a layer.
#include <cmath>

#include "model/stage.h"

namespace halfbyte::model {

namespace {

constexpr float kLeastSize = 0.0031622776f;  // of a stream that is made as large as another: the root of 1e-5

}  // namespace

// The embedding is the first stream, and what matrices make of it the others, as large as it is.
void Stage::open_streams(int64_t n) {
  const Config& c = weights_.config;
  const int64_t n_embd = c.n_embd, width = c.streams.n * n_embd;
  const float* embedded = x_.as<float>();
  float* stream = streams_.as<float>();
  copy(embedded, n_embd, stream, width, n, n_embd);
  for (const ops::Matrix& matrix : weights_.to_streams) {
    stream += n_embd;
    project(embedded, n_embd, {{.weight = &matrix, .out = stream, .out_stride = width}});
    ops_.match_size(context_, stream, width, embedded, n_embd, n, n_embd, kLeastSize);
  }
}

// stream_shares_ = what the layer's router says of a stream: numbers from -1 to 1, one for each.
void Stage::ask_router(size_t index, const float* stream, int64_t stride, int64_t n) {
  const Config& c = weights_.config;
  const StreamWeights& w = weights_.layers[index].streams;
  float *normed = branch_.as<float>(), *said = stream_shares_.as<float>();
  ops_.norm(context_, c.norm, stream, stride, normed, c.n_embd, n, c.n_embd, w.router_norm.data(), nullptr, c.norm_eps,
            &w.router);
  project(
      normed, c.n_embd,
      {{.weight = &w.router, .out = said, .out_stride = c.streams.n, .scale = 1.0f / static_cast<float>(c.n_embd)}});
  ops_.softcap(context_, said, n * c.streams.n, 1.0f);
}

// Each stream becomes what the layer expects of all; x_ = the one that passes through it.
void Stage::predict_streams(size_t index, int64_t n) {
  const Config& c = weights_.config;
  const StreamWeights& w = weights_.layers[index].streams;
  const int n_streams = c.streams.n;
  const int64_t n_shares = int64_t{n_streams} * n_streams, width = n_streams * c.n_embd;
  float *streams = streams_.as<float>(), *active = streams + c.streams.active * c.n_embd;
  float *said = stream_shares_.as<float>(), *shares = said + n * n_streams;
  ask_router(index, active, width, n);
  project(said, n_streams, {{.weight = &w.predict, .bias = w.identity.data(), .out = shares, .out_stride = n_shares}});
  ops_.mix(context_,
           {.weights = shares,
            .weight_stride = n_shares,
            .in = streams,
            .in_stride = width,
            .n_in = n_streams,
            .out = streams,
            .out_stride = width,
            .n_out = n_streams},
           n, c.n_embd);
  copy(active, width, x_.as<float>(), c.n_embd, n, c.n_embd);
}

// All streams take their shares of what the layer made of x_ beyond what was expected; those past the first, its row of
// the second embedding too.
void Stage::correct_streams(size_t index, int64_t n) {
  const Config& c = weights_.config;
  const LayerWeights& layer = weights_.layers[index];
  const StreamWeights& w = layer.streams;
  const int n_streams = c.streams.n;
  const int64_t n_embd = c.n_embd, width = n_streams * n_embd;
  float *x = x_.as<float>(), *branch = branch_.as<float>();
  float *streams = streams_.as<float>(), *active = streams + c.streams.active * n_embd;
  float *said = stream_shares_.as<float>(), *shares = said + n * n_streams;
  ask_router(index, x, n_embd, n);
  project(said, n_streams, {{.weight = &w.correct, .bias = w.ones.data(), .out = shares, .out_stride = n_streams}});
  copy(active, width, branch, n_embd, n, n_embd);
  ops_.add(context_, x, branch, -1.0f, n, n_embd);
  ops::Mix mix = {.weights = shares,
                  .weight_stride = n_streams,
                  .in = x,
                  .in_stride = n_embd,
                  .out = streams,
                  .out_stride = width,
                  .n_out = n_streams,
                  .accumulate = true};
  ops_.mix(context_, mix, n, n_embd);
  ops_.glu(context_, ops::Activation::none, active, width, w.output_scale.data(), 0, x, n_embd, n, n_embd);
  layer_row(index, n);
  norm(branch, branch, n, layer.embedding.out_norm, {}, nullptr);
  mix.weights = w.ones.data();
  mix.weight_stride = 0;
  mix.in = branch;
  mix.out = streams + n_embd;
  mix.n_out = n_streams - 1;
  ops_.mix(context_, mix, n, n_embd);
}

// x_ = the mean of the first stream and of what matrices make of the others, as large as the first.
void Stage::close_streams(int64_t n) {
  const Config& c = weights_.config;
  const int64_t n_embd = c.n_embd, width = c.streams.n * n_embd;
  const float *first = streams_.as<float>(), *stream = first;
  float *x = x_.as<float>(), *branch = branch_.as<float>();
  copy(first, width, x, n_embd, n, n_embd);
  for (const ops::Matrix& matrix : weights_.from_streams) {
    stream += n_embd;
    project(stream, width, {{.weight = &matrix, .out = branch, .out_stride = n_embd}});
    ops_.match_size(context_, branch, n_embd, first, width, n, n_embd, kLeastSize);
    ops_.add(context_, x, branch, 1.0f, n, n_embd);
  }
  scale(x, 1.0f / static_cast<float>(c.streams.n), n);
}

// The stream = (stream + normed_ + norm(up . (down . normed_))) / sqrt(2); normed_ is what attention has read.
void Stage::add_residual(size_t index, int64_t n) {
  const Config& c = weights_.config;
  const ResidualWeights& w = weights_.layers[index].residual;
  float *input = normed_.as<float>(), *low = residual_.as<float>(), *branch = branch_.as<float>();
  project(input, c.n_embd, {{.weight = &w.down, .out = low, .out_stride = c.residual_rank}});
  project(low, c.residual_rank, {{.weight = &w.up, .out = branch, .out_stride = c.n_embd}});
  norm_add(branch, n, w.norm);
  ops_.add(context_, x_.as<float>(), input, 1.0f, n, c.n_embd);
  scale(x_.as<float>(), std::sqrt(0.5f), n);
}

// rows (n, n_embd) *= factor.
void Stage::scale(float* rows, float factor, int64_t n) {
  ops_.add(context_, rows, rows, factor - 1.0f, n, weights_.config.n_embd);
}

}  // namespace halfbyte::model
