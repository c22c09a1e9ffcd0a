// The forward pass. State per call lives in Pass; buffers are planned once.
#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/rope_tables.h"

namespace halfbyte::model {

namespace {

const float* data_or_null(const Vector& v) {
  return v.empty() ? nullptr : v.data();
}

// The widest row that any layer needs of each kind.
struct Widths {
  int64_t q = 0, k = 0, v = 0, attention = 0, qkv = 0, mlp = 0, gate_up = 0;
};

Widths widths_of(const Weights& w) {
  Widths out;
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const LayerConfig& layer = w.config.layers[i];
    out.q = std::max<int64_t>(out.q, int64_t{layer.n_heads} * w.config.head_dim_k);
    out.k = std::max<int64_t>(out.k, int64_t{layer.n_kv_heads} * w.config.head_dim_k);
    out.v = std::max<int64_t>(out.v, int64_t{layer.n_kv_heads} * w.config.head_dim_v);
    out.attention = std::max<int64_t>(out.attention, int64_t{layer.n_heads} * w.config.head_dim_v);
    out.mlp = std::max(out.mlp, layer.n_ff);
    if (w.layers[i].gate_up) out.gate_up = std::max(out.gate_up, 2 * layer.n_ff);
  }
  out.qkv = out.q + out.k + out.v;
  return out;
}

}  // namespace

struct Decoder::State {
  std::shared_ptr<const Weights> weights;
  const ops::Ops& ops;
  ThreadPool pool;
  ops::Context context;
  int64_t max_rows, max_logit_rows;
  std::vector<RopeTable> ropes;  // the different ones; layers share them
  std::vector<size_t> rope_of;   // per layer, its index in ropes

  // Activations, f32 row-major; n is the batch's rows.
  Buffer x;         // (n, n_embd) the residual stream
  Buffer normed;    // (n, n_embd)
  Buffer branch;    // (n, n_embd) a block's output where a norm follows it
  Buffer qkv;       // (n, q + k + v): three matrices one after another, or one where the file fuses them
  Buffer attended;  // (n, n_heads * head_dim_v)
  Buffer mlp;       // (n, n_ff)
  Buffer gate_up;   // (n, 2 n_ff) where the file fuses them
  Buffer picked;    // (logit rows, n_embd)
  Buffer logits;    // (logit rows, n_vocab), grown on demand
  std::vector<int64_t> slots;
  std::vector<ops::RowRun> runs, picked_runs;
  std::vector<ops::AttentionSpan> spans;

  State(std::shared_ptr<const Weights> w, const ops::Ops& o, int n_threads, int64_t rows, int64_t logit_rows,
        int64_t n_ctx)
      : weights(std::move(w)),
        ops(o),
        pool(n_threads > 0 ? n_threads : usable_cores()),
        max_rows(rows),
        max_logit_rows(logit_rows) {
    require(rows >= 1 && logit_rows >= 1, "A decoder for %lld rows and %lld logit rows.", static_cast<long long>(rows),
            static_cast<long long>(logit_rows));
    context.pool = &pool;
    context.scratch = ops.create_scratch(pool);
    const Config& c = weights->config;
    if (n_ctx <= 0) n_ctx = c.n_ctx_train;
    for (const LayerConfig& layer : c.layers) {
      RopeTable table = rope_table(*weights, layer, n_ctx);
      const auto same =
          std::find_if(ropes.begin(), ropes.end(), [&](const RopeTable& known) { return known == table; });
      rope_of.push_back(static_cast<size_t>(same - ropes.begin()));
      if (same == ropes.end()) ropes.push_back(std::move(table));
    }
    const Widths widths = widths_of(*weights);
    const auto floats = [](int64_t n) {
      return Buffer(static_cast<size_t>(n) * sizeof(float), "The work buffers of a step");
    };
    x = floats(rows * c.n_embd);
    normed = floats(rows * c.n_embd);
    branch = floats(rows * c.n_embd);
    qkv = floats(rows * widths.qkv);
    attended = floats(rows * widths.attention);
    mlp = floats(rows * widths.mlp);
    gate_up = floats(rows * widths.gate_up);
    picked = floats(logit_rows * c.n_embd);
  }
  ~State() { ops.destroy_scratch(context.scratch); }

  void check(const Batch& batch, const cache::KvStore& kv) const;
  void plan(const Batch& batch, const cache::KvStore& kv);
  void embed(const Batch& batch);
  void project(const float* in, int64_t in_stride, std::initializer_list<ops::Projection> projections) {
    project(in, in_stride, projections, runs);
  }
  void project(const float* in, int64_t in_stride, std::initializer_list<ops::Projection> projections,
               const std::vector<ops::RowRun>& rows) {
    ops.linear(context, in, in_stride, rows, std::span(projections.begin(), projections.size()));
  }
  void norm(const float* in, float* out, int64_t n_rows, const Vector& weight, const Vector& bias);
  void norm_heads(float* rows, int64_t stride, int64_t n, int n_heads, const Vector& weight, const Vector& bias);
  void attention(size_t layer, const float* input, const Batch& batch, cache::KvStore& kv, float* out, bool accumulate);
  void feed_forward(size_t layer, const float* input, float* out, bool accumulate);
  void layer(size_t index, const Batch& batch, cache::KvStore& kv);
  std::span<float> run(const Batch& batch, cache::KvStore& kv, const bool* cancelled);
};

void Decoder::State::check(const Batch& batch, const cache::KvStore& kv) const {
  const Config& c = weights->config;
  const int64_t n = batch.n_rows();
  require(n >= 1 && n <= max_rows, "A batch of %lld rows; 1 to %lld are allowed.", static_cast<long long>(n),
          static_cast<long long>(max_rows));
  require(batch.positions.size() == batch.tokens.size(), "A batch with %zu tokens and %zu positions.",
          batch.tokens.size(), batch.positions.size());
  require(static_cast<int64_t>(batch.logit_rows.size()) <= max_logit_rows, "%zu logit rows; at most %lld are allowed.",
          batch.logit_rows.size(), static_cast<long long>(max_logit_rows));
  require(kv.n_layers() == c.n_layers, "A KV cache of %d layers for a model of %lld.", kv.n_layers(),
          static_cast<long long>(c.n_layers));
  for (const int32_t token : batch.tokens) {
    require(token >= 0 && token < c.n_vocab, "Token id %d is outside the vocabulary of %lld.", token,
            static_cast<long long>(c.n_vocab));
  }
  for (const int32_t row : batch.logit_rows)
    require(row >= 0 && row < n, "Logits of row %d of %lld.", row, static_cast<long long>(n));
  int64_t next = 0;
  for (const SequenceRows& s : batch.sequences) {
    const int64_t last = s.first_position + s.n_rows - 1;
    require(s.first_row == next && s.n_rows >= 1 && s.first_position >= 0 && next + s.n_rows <= n,
            "A batch's sequences must cover its rows in order.");
    require(last / ops::kKvBlockTokens < static_cast<int64_t>(s.block_table.size()), "Position %lld has no KV block.",
            static_cast<long long>(last));
    require(c.positions != PositionKind::learned || last < c.n_ctx_train,
            "Position %lld is past the model's %lld learned positions.", static_cast<long long>(last),
            static_cast<long long>(c.n_ctx_train));
    for (const int32_t block : s.block_table)
      require(block >= -1 && block < kv.n_blocks(), "KV block %d of %d.", block, kv.n_blocks());
    for (int64_t i = 0; i < s.n_rows; ++i) {
      require(batch.positions[static_cast<size_t>(next + i)] == s.first_position + i,
              "A sequence's positions must be consecutive.");
    }
    next += s.n_rows;
  }
  require(next == n, "A batch's sequences cover %lld of its %lld rows.", static_cast<long long>(next),
          static_cast<long long>(n));
}

// Slots, row runs and attention spans of the batch.
void Decoder::State::plan(const Batch& batch, const cache::KvStore& kv) {
  slots.clear();
  runs.clear();
  spans.clear();
  for (const SequenceRows& s : batch.sequences) {
    for (int64_t p = s.first_position; p < s.first_position + s.n_rows; ++p) {
      const int32_t block = s.block_table[static_cast<size_t>(p / ops::kKvBlockTokens)];
      require(block >= 0, "Position %lld has no KV block.", static_cast<long long>(p));
      slots.push_back(int64_t{block} * ops::kKvBlockTokens + p % ops::kKvBlockTokens);
    }
    if (!runs.empty() && runs.back().role == s.role)
      runs.back().end += s.n_rows;
    else
      runs.push_back({s.first_row, s.first_row + s.n_rows, s.role});
    spans.push_back({s.first_row, s.n_rows, s.first_position, s.role, s.block_table.data()});
  }
}

void Decoder::State::norm(const float* in, float* out, int64_t n_rows, const Vector& weight, const Vector& bias) {
  const Config& c = weights->config;
  ops.norm(context, c.norm, in, c.n_embd, out, c.n_embd, n_rows, c.n_embd, data_or_null(weight), data_or_null(bias),
           c.norm_eps);
}

// Norms each head where `weight` is one head long, else the whole row.
void Decoder::State::norm_heads(float* rows, int64_t stride, int64_t n, int n_heads, const Vector& weight,
                                const Vector& bias) {
  if (weight.empty()) return;
  const Config& c = weights->config;
  const int64_t dim = static_cast<int64_t>(weight.size()), row_dim = int64_t{n_heads} * c.head_dim_k;
  if (dim == row_dim || stride == row_dim) {
    const int64_t n_norms = n * (row_dim / dim), norm_stride = dim == row_dim ? stride : dim;
    ops.norm(context, c.norm, rows, norm_stride, rows, norm_stride, n_norms, dim, weight.data(), data_or_null(bias),
             c.norm_eps);
    return;
  }
  for (int64_t t = 0; t < n; ++t) {
    float* row = rows + t * stride;
    ops.norm(context, c.norm, row, dim, row, dim, n_heads, dim, weight.data(), data_or_null(bias), c.norm_eps);
  }
}

void Decoder::State::embed(const Batch& batch) {
  const Config& c = weights->config;
  const int64_t n = batch.n_rows();
  ops.embed(context, weights->token_embedding, batch.tokens, c.embedding_scale, x.as<float>());
  if (c.positions == PositionKind::learned) {
    ops.embed(context, weights->position_embedding, batch.positions, 1.0f, branch.as<float>());
    ops.add(context, x.as<float>(), branch.as<float>(), 1.0f, n, c.n_embd);
  }
  if (!weights->token_embedding_norm.empty()) {
    norm(x.as<float>(), x.as<float>(), n, weights->token_embedding_norm, weights->token_embedding_norm_bias);
  }
}

// out (+)= attention of `input` (n, n_embd), its keys and values written to the cache.
void Decoder::State::attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out,
                               bool accumulate) {
  const Config& c = weights->config;
  const LayerConfig& shape = c.layers[index];
  const LayerWeights& w = weights->layers[index];
  const int64_t n = batch.n_rows();
  const int64_t q_dim = int64_t{shape.n_heads} * c.head_dim_k, k_dim = int64_t{shape.n_kv_heads} * c.head_dim_k,
                v_dim = int64_t{shape.n_kv_heads} * c.head_dim_v, o_dim = int64_t{shape.n_heads} * c.head_dim_v;
  const bool fused = static_cast<bool>(w.qkv);
  float* q = qkv.as<float>();
  float* k = fused ? q + q_dim : q + n * q_dim;
  float* v = fused ? k + k_dim : k + n * k_dim;
  const int64_t q_stride = fused ? q_dim + k_dim + v_dim : q_dim, k_stride = fused ? q_stride : k_dim,
                v_stride = fused ? q_stride : v_dim;
  if (fused) {
    project(input, c.n_embd, {{.weight = &w.qkv, .bias = data_or_null(w.qkv_bias), .out = q, .out_stride = q_stride}});
  } else {
    project(input, c.n_embd,
            {
                {.weight = &w.q, .bias = data_or_null(w.q_bias), .out = q, .out_stride = q_stride},
                {.weight = &w.k, .bias = data_or_null(w.k_bias), .out = k, .out_stride = k_stride},
                {.weight = &w.v, .bias = data_or_null(w.v_bias), .out = v, .out_stride = v_stride},
            });
  }
  norm_heads(q, q_stride, n, shape.n_heads, w.q_norm, w.q_norm_bias);
  norm_heads(k, k_stride, n, shape.n_kv_heads, w.k_norm, w.k_norm_bias);
  if (c.positions == PositionKind::rope && shape.uses_rope) {
    const RopeTable& table = ropes[rope_of[index]];
    const ops::RopeArgs rope_args = {c.rope, c.rope_dim, table.inv_freq.data(), table.magnitude};
    ops.rope(context, rope_args, q, q_stride, n, shape.n_heads, c.head_dim_k, batch.positions.data());
    ops.rope(context, rope_args, k, k_stride, n, shape.n_kv_heads, c.head_dim_k, batch.positions.data());
  }
  const int layer = static_cast<int>(index);
  ops.store_kv(context, kv.layout(layer), kv.layer_data(layer), k, k_stride, v, v_stride, n, slots.data());
  ops.attention(context, {.query = q,
                          .query_stride = q_stride,
                          .out = attended.as<float>(),
                          .out_stride = o_dim,
                          .kv = kv.layer_data(layer),
                          .layout = kv.layout(layer),
                          .n_heads = shape.n_heads,
                          .scale = c.attention_scale != 0 ? c.attention_scale
                                                          : 1.0f / std::sqrt(static_cast<float>(c.head_dim_k)),
                          .softcap = c.attention_softcap,
                          .window = shape.window,
                          .sinks = data_or_null(w.sinks),
                          .spans = spans});
  project(attended.as<float>(), o_dim,
          {{.weight = &w.o,
            .bias = data_or_null(w.o_bias),
            .out = out,
            .out_stride = c.n_embd,
            .scale = accumulate ? c.residual_scale : 1.0f,
            .accumulate = accumulate}});
}

// out (+)= the MLP of `input` (n, n_embd).
void Decoder::State::feed_forward(size_t index, const float* input, float* out, bool accumulate) {
  const Config& c = weights->config;
  const LayerWeights& w = weights->layers[index];
  const int64_t n_ff = c.layers[index].n_ff;
  float* hidden = mlp.as<float>();
  if (w.gate_up) {
    project(input, c.n_embd, {{.weight = &w.gate_up, .out = gate_up.as<float>(), .out_stride = 2 * n_ff}});
    const float* gate = gate_up.as<float>();
    ops.glu(context, c.activation, gate, 2 * n_ff, gate + n_ff, 2 * n_ff, hidden, n_ff, runs.back().end, n_ff);
  } else if (w.gate) {
    ops.linear_glu(context, input, c.n_embd, runs, w.gate, data_or_null(w.gate_bias), w.up, data_or_null(w.up_bias),
                   c.activation, hidden, n_ff);
  } else {
    project(input, c.n_embd,
            {{.weight = &w.up,
              .bias = data_or_null(w.up_bias),
              .out = hidden,
              .out_stride = n_ff,
              .activation = c.activation}});
  }
  project(hidden, n_ff,
          {{.weight = &w.down,
            .bias = data_or_null(w.down_bias),
            .out = out,
            .out_stride = c.n_embd,
            .scale = accumulate ? c.residual_scale : 1.0f,
            .accumulate = accumulate}});
}

void Decoder::State::layer(size_t index, const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights->config;
  const LayerWeights& w = weights->layers[index];
  const int64_t n = batch.n_rows();
  float* stream = x.as<float>();
  float* input = normed.as<float>();
  float* output = branch.as<float>();
  switch (c.norm_places) {
    case NormPlaces::pre:
      norm(stream, input, n, w.attn_norm, w.attn_norm_bias);
      attention(index, input, batch, kv, stream, true);
      norm(stream, input, n, w.mlp_norm, w.mlp_norm_bias);
      feed_forward(index, input, stream, true);
      return;
    case NormPlaces::pre_and_post:
      norm(stream, input, n, w.attn_norm, w.attn_norm_bias);
      attention(index, input, batch, kv, output, false);
      norm(output, output, n, w.attn_post_norm, {});
      ops.add(context, stream, output, c.residual_scale, n, c.n_embd);
      norm(stream, input, n, w.mlp_norm, w.mlp_norm_bias);
      feed_forward(index, input, output, false);
      norm(output, output, n, w.mlp_post_norm, {});
      ops.add(context, stream, output, c.residual_scale, n, c.n_embd);
      return;
    case NormPlaces::post:
      attention(index, stream, batch, kv, output, false);
      norm(output, output, n, w.attn_post_norm, {});
      ops.add(context, stream, output, c.residual_scale, n, c.n_embd);
      feed_forward(index, stream, output, false);
      norm(output, output, n, w.mlp_post_norm, {});
      ops.add(context, stream, output, c.residual_scale, n, c.n_embd);
      return;
    case NormPlaces::parallel: {
      // The MLP reads the stream before attention adds to it.
      const bool own_norm = !w.mlp_norm.empty();
      if (own_norm)
        norm(stream, input, n, w.mlp_norm, w.mlp_norm_bias);
      else
        norm(stream, input, n, w.attn_norm, w.attn_norm_bias);
      feed_forward(index, input, output, false);
      if (!w.attn_norm_2.empty())
        norm(stream, input, n, w.attn_norm_2, w.attn_norm_2_bias);
      else if (own_norm)
        norm(stream, input, n, w.attn_norm, w.attn_norm_bias);
      attention(index, input, batch, kv, stream, true);
      ops.add(context, stream, output, c.residual_scale, n, c.n_embd);
      return;
    }
  }
}

// Final normalized hidden states of the rows that want logits, (n, n_embd).
std::span<float> Decoder::State::run(const Batch& batch, cache::KvStore& kv, const bool* cancelled) {
  check(batch, kv);
  plan(batch, kv);
  embed(batch);
  for (size_t index = 0; index < weights->layers.size(); ++index) {
    if (cancelled != nullptr && __atomic_load_n(cancelled, __ATOMIC_RELAXED))
      throw Error(ErrorKind::cancelled, "The computation was stopped.");
    layer(index, batch, kv);
  }
  const int64_t width = weights->config.n_embd;
  float* rows = picked.as<float>();
  picked_runs.clear();
  for (const int32_t row : batch.logit_rows) {
    const auto at = static_cast<int64_t>(picked_runs.empty() ? 0 : picked_runs.back().end);
    std::copy_n(x.as<float>() + row * width, width, rows + at * width);
    ops::Role role = ops::Role::prefill;
    for (const ops::RowRun& run : runs) {
      if (row >= run.begin && row < run.end) role = run.role;
    }
    if (!picked_runs.empty() && picked_runs.back().role == role)
      ++picked_runs.back().end;
    else
      picked_runs.push_back({at, at + 1, role});
  }
  const auto n_picked = static_cast<int64_t>(batch.logit_rows.size());
  if (n_picked > 0) norm(rows, rows, n_picked, weights->output_norm, weights->output_norm_bias);
  return {rows, static_cast<size_t>(n_picked * width)};
}

Decoder::Decoder(std::shared_ptr<const Weights> weights, const ops::Ops& ops, int n_threads, int64_t max_rows,
                 int64_t max_logit_rows, int64_t n_ctx)
    : state_(std::make_unique<State>(std::move(weights), ops, n_threads, max_rows, max_logit_rows, n_ctx)) {}

Decoder::~Decoder() = default;

const Config& Decoder::config() const {
  return state_->weights->config;
}

std::vector<ops::KvLayout> Decoder::kv_layouts(ops::KvType k_type, ops::KvType v_type) const {
  std::vector<ops::KvLayout> layouts;
  for (const LayerConfig& layer : config().layers)
    layouts.push_back({k_type, v_type, layer.n_kv_heads, config().head_dim_k, config().head_dim_v});
  const auto quantized = [](ops::KvType type) { return type == ops::KvType::q8_0 || type == ops::KvType::q4_0; };
  require(
      (!quantized(k_type) || config().head_dim_k % 32 == 0) && (!quantized(v_type) || config().head_dim_v % 32 == 0),
      "A quantized KV type needs a head_dim that is a multiple of 32; this model's is %d. Choose f16, bf16 or f32.",
      config().head_dim_k);
  return layouts;
}

std::span<const float> Decoder::forward(const Batch& batch, cache::KvStore& kv, const bool* cancelled) {
  State& s = *state_;
  const Config& c = config();
  const std::span<float> hidden = s.run(batch, kv, cancelled);
  const auto n = static_cast<int64_t>(batch.logit_rows.size());
  const auto bytes = static_cast<size_t>(n * c.n_vocab) * sizeof(float);
  if (n == 0) return {};
  if (s.logits.size() < bytes) s.logits = Buffer(bytes, "The logits of a step");
  float* out = s.logits.as<float>();
  s.project(hidden.data(), c.n_embd,
            {{.weight = &s.weights->output,
              .bias = data_or_null(s.weights->output_bias),
              .out = out,
              .out_stride = c.n_vocab,
              .scale = c.logit_scale}},
            s.picked_runs);
  if (c.final_softcap > 0) s.ops.softcap(s.context, out, n * c.n_vocab, c.final_softcap);
  return {out, static_cast<size_t>(n * c.n_vocab)};
}

std::span<const float> Decoder::hidden(const Batch& batch, cache::KvStore& kv, const bool* cancelled) {
  return state_->run(batch, kv, cancelled);
}

}  // namespace halfbyte::model
