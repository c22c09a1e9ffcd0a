// A stage's attention: projections, head norms, rope, the cache, and the way back into the stream.
#include <cmath>

#include "model/stage.h"
#include "ops/fused.h"

namespace halfbyte::model {

// One norm of all heads goes with the heads. Others are done at once: heads with weights of their own, a whole row.
ops::HeadRows Stage::heads(float* rows, int64_t stride, int64_t n, int n_heads, const Vector& weight,
                           const Vector& bias) {
  const Config& c = weights_.config;
  const auto dim = static_cast<int64_t>(weight.size());
  if (dim == c.head_dim_k) return {rows, stride, n_heads, weight.data(), bias.data_or_null()};
  if (c.heads_have_own_norms) {
    for (int64_t at = 0; at < dim; at += c.head_dim_k) {
      ops_.norm(context_, c.norm, rows + at, stride, rows + at, stride, n, c.head_dim_k, weight.data() + at, nullptr,
                c.norm_eps);
    }
  } else if (dim > 0) {
    ops_.norm(context_, c.norm, rows, stride, rows, stride, n, dim, weight.data(), bias.data_or_null(), c.norm_eps);
  }
  return {.rows = rows, .stride = stride, .n_heads = n_heads};
}

// out (+)= attention of `input` (n, n_embd), its keys and values written to the cache.
void Stage::attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out,
                      bool accumulate) {
  const Config& c = weights_.config;
  const LayerConfig& shape = c.layers[index];
  const LayerWeights& w = weights_.layers[index];
  const int64_t n = batch.n_rows();
  const int64_t q_dim = int64_t{shape.n_heads} * c.head_dim_k, k_dim = int64_t{shape.n_kv_heads} * c.head_dim_k,
                v_dim = int64_t{shape.n_kv_heads} * c.head_dim_v, o_dim = int64_t{shape.n_heads} * c.head_dim_v;
  const bool fused = static_cast<bool>(w.qkv);
  float* q = qkv_.as<float>();
  float* k = fused ? q + q_dim : q + n * q_dim;
  float* v = fused ? k + k_dim : k + n * k_dim;
  const int64_t q_stride = fused ? q_dim + k_dim + v_dim : q_dim, k_stride = fused ? q_stride : k_dim,
                v_stride = fused ? q_stride : v_dim;
  if (fused) {
    project(input, c.n_embd, {{.weight = &w.qkv, .bias = w.qkv_bias.data_or_null(), .out = q, .out_stride = q_stride}});
  } else {
    project(input, c.n_embd,
            {
                {.weight = &w.q, .bias = w.q_bias.data_or_null(), .out = q, .out_stride = q_stride},
                {.weight = &w.k, .bias = w.k_bias.data_or_null(), .out = k, .out_stride = k_stride},
                {.weight = &w.v, .bias = w.v_bias.data_or_null(), .out = v, .out_stride = v_stride},
            });
  }
  adapt(index, &LayerAdapter::qkv, input, c.n_embd, q, q_stride);
  adapt(index, &LayerAdapter::q, input, c.n_embd, q, q_stride);
  adapt(index, &LayerAdapter::k, input, c.n_embd, k, k_stride);
  adapt(index, &LayerAdapter::v, input, c.n_embd, v, v_stride);
  ops::RopeArgs rope;
  if (c.positions == PositionKind::rope && shape.uses_rope) {
    const size_t table = rope_of_[index];
    rope = {c.rope, c.rope_dim, inv_freqs_[table].as<float>(), magnitudes_[table]};
  }
  if (c.norm_heads_after_rope && rope.kind != ops::RopeKind::none) {
    ops_.rope(context_, rope, q, q_stride, n, shape.n_heads, c.head_dim_k, batch.positions.data());
    ops_.rope(context_, rope, k, k_stride, n, shape.n_kv_heads, c.head_dim_k, batch.positions.data());
    rope = {};
  }
  const int layer = static_cast<int>(index);
  const auto group = static_cast<size_t>(groups_.group_of[index]);
  const ops::HeadArgs args = {.query = heads(q, q_stride, n, shape.n_heads, w.q_norm, w.q_norm_bias),
                              .key = heads(k, k_stride, n, shape.n_kv_heads, w.k_norm, w.k_norm_bias),
                              .value = v,
                              .value_stride = v_stride,
                              .n_tokens = n,
                              .norm = c.norm,
                              .norm_eps = c.norm_eps,
                              .rope = rope,
                              .positions = batch.positions.data(),
                              .layout = kv.layout(layer),
                              .kv = kv.layer_data(layer),
                              .slots = plan_->slots.data() + group * static_cast<size_t>(n)};
  ops::store_heads(ops_, context_, args);
  ops_.attention(
      context_,
      {.query = q,
       .query_stride = q_stride,
       .out = attended_.as<float>(),
       .out_stride = o_dim,
       .kv = kv.layer_data(layer),
       .layout = kv.layout(layer),
       .n_heads = shape.n_heads,
       .scale = c.attention_scale != 0 ? c.attention_scale : 1.0f / std::sqrt(static_cast<float>(c.head_dim_k)),
       .softcap = c.attention_softcap,
       .window = shape.window,
       .sinks = w.sinks.data_or_null(),
       .spans = std::span(plan_->spans).subspan(group * batch.sequences.size(), batch.sequences.size())});
  project(attended_.as<float>(), o_dim,
          {{.weight = &w.o,
            .bias = w.o_bias.data_or_null(),
            .out = out,
            .out_stride = c.n_embd,
            .scale = accumulate ? c.residual_scale : 1.0f,
            .accumulate = accumulate}});
  adapt(index, &LayerAdapter::o, attended_.as<float>(), o_dim, out, c.n_embd, accumulate ? c.residual_scale : 1.0f);
}

}  // namespace halfbyte::model
