// A stage's attention: projections, head norms, rope, the cache, and the way back into the stream.
#include <cmath>

#include "model/stage.h"
#include "ops/fused.h"

namespace halfbyte::model {

// One norm of all heads goes with the heads. Others are done at once: heads with weights of their own, a whole row.
ops::HeadRows Stage::heads(float* rows, int64_t stride, int64_t n, int n_heads, int head_dim, const Vector& weight,
                           const Vector& bias) {
  const Config& c = weights_.config;
  const auto dim = static_cast<int64_t>(weight.size());
  if (dim == head_dim) return {rows, stride, n_heads, weight.data(), bias.data_or_null()};
  if (c.heads_have_own_norms) {
    for (int64_t at = 0; at < dim; at += head_dim) {
      ops_.norm(context_, c.norm, rows + at, stride, rows + at, stride, n, head_dim, weight.data() + at, nullptr,
                c.norm_eps, nullptr);
    }
  } else if (dim > 0) {
    ops_.norm(context_, c.norm, rows, stride, rows, stride, n, dim, weight.data(), bias.data_or_null(), c.norm_eps,
              nullptr);
  }
  return {.rows = rows, .stride = stride, .n_heads = n_heads};
}

// out (+)= attention of `input` (n, n_embd), its keys and values written to the cache.
void Stage::attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out,
                      bool accumulate) {
  const Config& c = weights_.config;
  if (c.latent.rank > 0) return latent_attention(index, input, batch, kv, out, accumulate);
  const LayerConfig& shape = c.layers[index];
  const LayerWeights& w = weights_.layers[index];
  const int64_t n = batch.n_rows();
  const int64_t q_dim = int64_t{shape.n_heads} * shape.key_dim, k_dim = int64_t{shape.n_kv_heads} * shape.key_dim,
                v_dim = int64_t{shape.n_kv_heads} * shape.value_dim;
  const bool fused = static_cast<bool>(w.qkv);
  float* q = qkv_.as<float>();
  float* k = fused ? q + q_dim : q + n * q_dim;
  float* v = fused ? k + k_dim : k + n * k_dim;
  const int64_t q_stride = fused ? q_dim + k_dim + v_dim : q_dim, k_stride = fused ? q_stride : k_dim,
                v_stride = fused ? q_stride : v_dim;
  if (fused) {
    project(input, c.n_embd, {{.weight = &w.qkv, .bias = w.qkv_bias.data_or_null(), .out = q, .out_stride = q_stride}});
  } else {
    const ops::Projection to_q = {.weight = &w.q, .bias = w.q_bias.data_or_null(), .out = q, .out_stride = q_stride};
    const ops::Projection to_k = {.weight = &w.k, .bias = w.k_bias.data_or_null(), .out = k, .out_stride = k_stride};
    const ops::Projection to_v = {.weight = &w.v, .bias = w.v_bias.data_or_null(), .out = v, .out_stride = v_stride};
    if (shape.kv_layer >= 0)
      project(input, c.n_embd, {to_q});
    else if (!w.v)
      project(input, c.n_embd, {to_q, to_k});
    else
      project(input, c.n_embd, {to_q, to_k, to_v});
  }
  adapt(index, &LayerAdapter::qkv, input, c.n_embd, q, q_stride);
  adapt(index, &LayerAdapter::q, input, c.n_embd, q, q_stride);
  adapt(index, &LayerAdapter::k, input, c.n_embd, k, k_stride);
  adapt(index, &LayerAdapter::v, input, c.n_embd, v, v_stride);
  ops::RopeArgs rope = rope_of(index);
  if (c.norm_heads_after_rope && rope.kind != ops::RopeKind::none) {
    ops_.rope(context_, rope, q, q_stride, n, shape.n_heads, shape.key_dim, batch.positions.data());
    ops_.rope(context_, rope, k, k_stride, n, shape.n_kv_heads, shape.key_dim, batch.positions.data());
    rope = {};
  }
  const ops::HeadRows query = heads(q, q_stride, n, shape.n_heads, shape.key_dim, w.q_norm, w.q_norm_bias);
  if (shape.kv_layer >= 0) {
    attend_with_keys_of_another(index, query, rope, batch, kv);
  } else {
    if (c.norm_values) norm_values(w.v ? v : k, v, n * shape.n_kv_heads, shape.value_dim);
    attend(index, query, heads(k, k_stride, n, shape.n_kv_heads, shape.key_dim, w.k_norm, w.k_norm_bias), v, v_stride,
           rope, batch, kv);
  }
  leave_attention(index, attended_.as<float>(), int64_t{shape.n_heads} * shape.value_dim, out, accumulate);
}

// Values normed without weights. from: where they are; or keys, which become values.
void Stage::norm_values(const float* from, float* value, int64_t n_heads, int64_t dim) {
  const Config& c = weights_.config;
  ops_.norm(context_, c.norm, from, dim, value, dim, n_heads, dim, nullptr, nullptr, c.norm_eps, nullptr);
}

// Rope of a layer; none where it has none.
ops::RopeArgs Stage::rope_of(size_t index) const {
  const Config& c = weights_.config;
  if (c.positions != PositionKind::rope || !c.layers[index].uses_rope) return {};
  const size_t table = rope_of_[index];
  return {c.rope, c.layers[index].rope_dim, inv_freqs_[table].as<float>(), magnitudes_[table]};
}

// Queries grow with the position where the model says so: rows that do so alike at once.
void Stage::grow(const ops::HeadRows& query, const Batch& batch) {
  const Config& c = weights_.config;
  const std::vector<int32_t>& positions = batch.positions;
  for (size_t begin = 0, end = 0; c.temperature_scale != 0 && begin < positions.size(); begin = end) {
    const int64_t reach = positions[begin] / c.temperature_length;
    while (end < positions.size() && positions[end] / c.temperature_length == reach) ++end;
    if (reach == 0) continue;
    float* rows = query.rows + static_cast<int64_t>(begin) * query.stride;
    ops_.add(context_, rows, rows, c.temperature_scale * std::log1p(static_cast<float>(reach)),
             static_cast<int64_t>(end - begin), query.stride);
  }
}

// The rest of the step is about the rows of the last plan alone: they move together.
void Stage::keep_last_rows(const ops::HeadRows& query) {
  const Config& c = weights_.config;
  const auto keep = [&](float* rows, int64_t n) { ops_.pick_rows(context_, rows, n, last_->rows, rows); };
  keep(query.rows, query.stride);
  keep(x_.as<float>(), c.n_embd);
  if (c.norm_places == NormPlaces::parallel) keep(branch_.as<float>(), c.n_embd);
  if (c.residual_rank > 0) keep(normed_.as<float>(), c.n_embd);
  if (c.streams.n > 0) keep(streams_.as<float>(), c.streams.n * c.n_embd);
  if (c.n_embd_per_layer > 0) keep(layer_rows_.as<float>(), c.n_layers * c.n_embd_per_layer);
  plan_ = &last_->plan;
}

// attended_ = attention of the queries; the keys and values are written to the cache. What stands between queries in
// their rows may change, too.
void Stage::attend(size_t index, const ops::HeadRows& query, const ops::HeadRows& key, const float* value,
                   int64_t value_stride, const ops::RopeArgs& rope, const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights_.config;
  const int64_t n = batch.n_rows();
  const int layer = static_cast<int>(index);
  const auto group = static_cast<size_t>(groups_.group_of[index]);
  ops::store_heads(ops_, context_,
                   {.query = query,
                    .key = key,
                    .value = value,
                    .value_stride = value_stride,
                    .n_tokens = n,
                    .norm = c.norm,
                    .norm_eps = c.norm_eps,
                    .rope = rope,
                    .positions = batch.positions.data(),
                    .layout = kv.layout(layer),
                    .kv = kv.layer_data(layer),
                    .slots = plan_->slots.data() + group * static_cast<size_t>(n)});
  read_attention(index, query, batch, kv);
}

// The same for a layer that reads what another has written.
void Stage::attend_with_keys_of_another(size_t index, const ops::HeadRows& query, const ops::RopeArgs& rope,
                                        const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights_.config;
  const int64_t n = batch.n_rows(), dim = c.layers[index].key_dim;
  for (int h = 0; query.norm_weight != nullptr && h < query.n_heads; ++h) {
    float* head = query.rows + h * dim;
    ops_.norm(context_, c.norm, head, query.stride, head, query.stride, n, dim, query.norm_weight, query.norm_bias,
              c.norm_eps, nullptr);
  }
  ops_.rope(context_, rope, query.rows, query.stride, n, query.n_heads, static_cast<int>(dim), batch.positions.data());
  read_attention(index, query, batch, kv);
}

// attended_ = attention of queries that are ready to keys and values in the cache.
void Stage::read_attention(size_t index, const ops::HeadRows& query, const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights_.config;
  const LayerConfig& shape = c.layers[index];
  const int layer = static_cast<int>(index);
  const auto group = static_cast<size_t>(groups_.group_of[index]);
  grow(query, batch);
  if (last_ != nullptr && static_cast<int64_t>(index) + 1 == end_) keep_last_rows(query);
  const size_t n_spans = plan_->spans.size() / static_cast<size_t>(groups_.n_groups());
  ops_.attention(context_, {.query = query.rows,
                            .query_stride = query.stride,
                            .out = attended_.as<float>(),
                            .out_stride = int64_t{shape.n_heads} * shape.value_dim,
                            .kv = kv.layer_data(layer),
                            .layout = kv.layout(layer),
                            .n_heads = shape.n_heads,
                            .scale = c.attention_scale != 0 ? c.attention_scale
                                                            : 1.0f / std::sqrt(static_cast<float>(shape.key_dim)),
                            .softcap = c.attention_softcap,
                            .window = shape.window,
                            .sinks = weights_.layers[index].sinks.data_or_null(),
                            .spans = std::span(plan_->spans).subspan(group * n_spans, n_spans),
                            .next = c.latent.rank > 0 ? nullptr : &weights_.layers[index].o});
}

// out (+)= what the heads' outputs (n, width) become.
void Stage::leave_attention(size_t index, const float* rows, int64_t width, float* out, bool accumulate) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  project(rows, width,
          {{.weight = &w.o,
            .bias = w.o_bias.data_or_null(),
            .out = out,
            .out_stride = c.n_embd,
            .scale = accumulate ? c.residual_scale : 1.0f,
            .accumulate = accumulate}});
  adapt(index, &LayerAdapter::o, rows, width, out, c.n_embd, accumulate ? c.residual_scale : 1.0f);
}

}  // namespace halfbyte::model
