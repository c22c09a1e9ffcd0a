// A stage's latent attention: queries are carried to where the latent rows are, which serve all heads as keys and
// values, and what they gather there is carried back. Keys and values of heads are never made.
#include <utility>

#include "model/stage.h"

namespace halfbyte::model {

// Copies n parts of `width` floats that lie in_stride and out_stride apart.
void Stage::copy(const float* in, int64_t in_stride, float* out, int64_t out_stride, int64_t n, int64_t width) {
  ops_.glu(context_, ops::Activation::none, in, in_stride, ones(width), 0, out, out_stride, n, width);
}

// out[t, h] = matrix h of the stack . in[t, h], out_stride apart: heads are rows that each have chosen their own
// expert.
void Stage::multiply_heads(const ops::Matrix& stack, const float* in, float* out, int64_t out_stride) {
  std::vector<ops::RowRun> runs = plan_->runs;
  for (ops::RowRun& run : runs) {
    run.begin *= stack.n_matrices;
    run.end *= stack.n_matrices;
  }
  const int64_t n = runs.back().end;
  const ops::Chosen own = {1, own_heads_.as<int32_t>(), ones(n)};
  if (observer_ != nullptr && !stack.name.empty())  // else it was made here, of a file's fused one
    observer_->observe_experts(stack, in, stack.n_cols, {own.experts, static_cast<size_t>(n)}, 1);
  ops_.expert_sum(context_, in, runs, stack, nullptr, own, 1.0f, false, out, out_stride);
}

void Stage::latent_attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out,
                             bool accumulate) {
  const Config& c = weights_.config;
  const LatentConfig& l = c.latent;
  const LayerConfig& shape = c.layers[index];
  const LayerWeights& layer = weights_.layers[index];
  const LatentWeights& w = layer.latent;
  const int64_t n = batch.n_rows(), n_heads = shape.n_heads, still = l.key_dim - shape.rope_dim;
  float* at = latent_.as<float>();
  const auto take = [&](int64_t width) { return std::exchange(at, at + n * width); };
  float *q_latent = take(w.q_down.n_rows), *q = take(n_heads * l.key_dim), *latent = take(shape.key_dim);
  float *q_still = take(n_heads * still), *values = take(n_heads * l.value_dim);
  float* query = qkv_.as<float>();
  float* key = query + n * n_heads * shape.key_dim;

  const int64_t q_width = layer.q.n_rows;
  if (w.q_down) {
    const int64_t rank = w.q_down.n_rows;
    project(input, c.n_embd,
            {{.weight = &w.q_down, .out = q_latent, .out_stride = rank},
             {.weight = &w.kv_down, .out = latent, .out_stride = shape.key_dim}});
    ops_.norm(context_, c.norm, q_latent, rank, q_latent, rank, n, rank, w.q_norm.data(), nullptr, c.norm_eps,
              &layer.q);
    project(q_latent, rank, {{.weight = &layer.q, .out = q, .out_stride = q_width}});
  } else {
    project(input, c.n_embd,
            {{.weight = &layer.q, .out = q, .out_stride = q_width},
             {.weight = &w.kv_down, .out = latent, .out_stride = shape.key_dim}});
    adapt(index, &LayerAdapter::q, input, c.n_embd, q, q_width);
  }

  // In files what turns comes last; rope and the cache have it first.
  copy(q + still, l.key_dim, query, shape.key_dim, n * n_heads, shape.rope_dim);
  copy(q, l.key_dim, q_still, still, n * n_heads, still);
  multiply_heads(w.key_up, q_still, query + shape.rope_dim, shape.key_dim);
  copy(latent + l.rank, shape.key_dim, key, shape.key_dim, n, shape.rope_dim);
  ops_.norm(context_, c.norm, latent, shape.key_dim, key + shape.rope_dim, shape.key_dim, n, l.rank, w.kv_norm.data(),
            nullptr, c.norm_eps, nullptr);

  attend(index, {.rows = query, .stride = n_heads * shape.key_dim, .n_heads = static_cast<int>(n_heads)},
         {.rows = key, .stride = shape.key_dim, .n_heads = 1}, key + shape.rope_dim, shape.key_dim, rope_of(index),
         batch, kv);
  multiply_heads(w.value_up, attended_.as<float>(), values, l.value_dim);
  leave_attention(index, values, n_heads * l.value_dim, out, accumulate);
}

}  // namespace halfbyte::model
