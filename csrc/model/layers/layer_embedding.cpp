// A stage's second embedding, which has a row for each layer: made of tokens and of the stream before the first layer,
// and added to the stream (or to others beside it), gated by it, behind each.
#include <cmath>

#include "model/stage.h"

namespace halfbyte::model {

// layer_rows_ = (the token's rows + the norm of what the stream gives of each) / sqrt(2). x_ holds the embedded tokens.
void Stage::embed_for_layers(const Batch& batch) {
  const Config& c = weights_.config;
  const int64_t n = batch.n_rows(), dim = c.n_embd_per_layer, width = c.n_layers * dim;
  const float half = std::sqrt(0.5f);
  float *rows = layer_rows_.as<float>(), *of_stream = layer_rows_of_stream_.as<float>();
  ops_.embed(context_, weights_.layer_embedding, batch.tokens, half * std::sqrt(static_cast<float>(dim)), rows);
  project(x_.as<float>(), c.n_embd,
          {{.weight = &weights_.layer_embedding_of_stream,
            .out = of_stream,
            .out_stride = width,
            .scale = 1.0f / std::sqrt(static_cast<float>(c.n_embd))}});
  ops_.norm(context_, c.norm, of_stream, dim, of_stream, dim, n * c.n_layers, dim, weights_.layer_embedding_norm.data(),
            nullptr, c.norm_eps, nullptr);
  ops_.add(context_, rows, of_stream, half, n, width);
}

// branch_ = out . (act(gate . stream) * the layer's row), which is normed before it is added to anything.
void Stage::layer_row(size_t index, int64_t n) {
  const Config& c = weights_.config;
  const LayerEmbeddingWeights& w = weights_.layers[index].embedding;
  const int64_t dim = c.n_embd_per_layer;
  float* gated = layer_rows_of_stream_.as<float>();
  project(x_.as<float>(), c.n_embd, {{.weight = &w.gate, .out = gated, .out_stride = dim}});
  const float* row = layer_rows_.as<float>() + static_cast<int64_t>(index) * dim;
  ops_.glu(context_, c.activation, gated, dim, row, c.n_layers * dim, gated, dim, n, dim);
  project(gated, dim, {{.weight = &w.out, .out = branch_.as<float>(), .out_stride = c.n_embd}});
}

}  // namespace halfbyte::model
