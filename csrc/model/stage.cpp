// One stage's forward pass, written once for all families over ops.h.
#include "model/stage.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace halfbyte::model {

namespace {

// The widest row that any layer needs of each kind.
struct Widths {
  int64_t q = 0, k = 0, v = 0, attention = 0, qkv = 0, mlp = 0, gate_up = 0, n_experts = 0, expert = 0;
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
    out.n_experts = std::max<int64_t>(out.n_experts, layer.n_experts);
    out.expert = std::max(out.expert, layer.n_ff_expert);
    if (w.layers[i].gate_up) out.gate_up = std::max(out.gate_up, 2 * layer.n_ff);
  }
  out.qkv = out.q + out.k + out.v;
  return out;
}

}  // namespace

Stage::Stage(const Weights& weights, const ops::Ops& ops, ThreadPool& pool, int64_t begin, int64_t end,
             int64_t max_rows, const std::vector<RopeTable>& ropes, const std::vector<size_t>& rope_of,
             const KvGroups& groups)
    : weights_(weights), ops_(ops), begin_(begin), end_(end), rope_of_(rope_of), groups_(groups) {
  const Config& c = weights.config;
  const Widths widths = widths_of(weights);
  x_ = floats(max_rows * c.n_embd);
  normed_ = floats(max_rows * c.n_embd);
  branch_ = floats(max_rows * c.n_embd);
  qkv_ = floats(max_rows * widths.qkv);
  attended_ = floats(max_rows * widths.attention);
  mlp_ = floats(max_rows * widths.mlp);
  gate_up_ = floats(max_rows * widths.gate_up);
  router_logits_ = floats(max_rows * widths.n_experts);
  chosen_ = floats(max_rows * c.experts.n_used);
  shares_ = floats(max_rows * c.experts.n_used);
  shared_ = floats(2 * max_rows * (c.experts.n_used > 0));
  expert_hidden_ = floats(max_rows * c.experts.n_used * widths.expert);
  picked_ = floats(max_rows * c.n_embd);
  for (const RopeTable& table : ropes) {
    inv_freqs_.push_back(floats(static_cast<int64_t>(table.inv_freq.size())));
    ops.memory->upload(inv_freqs_.back().data(), table.inv_freq.data(), table.inv_freq.size() * sizeof(float));
    magnitudes_.push_back(table.magnitude);
  }
  context_.pool = &pool;
  context_.scratch = ops.create_scratch(pool);
}

Stage::~Stage() {
  ops_.destroy_scratch(context_.scratch);
}

Buffer Stage::floats(int64_t n) const {
  return ops_.memory->allocate(static_cast<size_t>(n) * sizeof(float), "The work buffers of a step");
}

void Stage::project(const float* in, int64_t in_stride, std::initializer_list<ops::Projection> projections) {
  if (observer_ != nullptr) {
    for (const ops::Projection& p : projections) observer_->observe(*p.weight, in, in_stride, plan_->runs.back().end);
  }
  ops_.linear(context_, in, in_stride, plan_->runs, std::span(projections.begin(), projections.size()));
}

void Stage::norm(const float* in, float* out, int64_t n_rows, const Vector& weight, const Vector& bias) {
  const Config& c = weights_.config;
  ops_.norm(context_, c.norm, in, c.n_embd, out, c.n_embd, n_rows, c.n_embd, weight.data_or_null(), bias.data_or_null(),
            c.norm_eps);
}

// Norms each head where `weight` is one head long, else the whole row.
void Stage::norm_heads(float* rows, int64_t stride, int64_t n, int n_heads, const Vector& weight, const Vector& bias) {
  if (weight.empty()) return;
  const Config& c = weights_.config;
  const int64_t dim = static_cast<int64_t>(weight.size()), row_dim = int64_t{n_heads} * c.head_dim_k;
  if (dim == row_dim || stride == row_dim) {
    const int64_t n_norms = n * (row_dim / dim), norm_stride = dim == row_dim ? stride : dim;
    ops_.norm(context_, c.norm, rows, norm_stride, rows, norm_stride, n_norms, dim, weight.data(), bias.data_or_null(),
              c.norm_eps);
    return;
  }
  for (int64_t t = 0; t < n; ++t) {
    float* row = rows + t * stride;
    ops_.norm(context_, c.norm, row, dim, row, dim, n_heads, dim, weight.data(), bias.data_or_null(), c.norm_eps);
  }
}

void Stage::embed(const Batch& batch) {
  const Config& c = weights_.config;
  const int64_t n = batch.n_rows();
  ops_.embed(context_, weights_.token_embedding, batch.tokens, c.embedding_scale, x_.as<float>());
  if (c.positions == PositionKind::learned) {
    ops_.embed(context_, weights_.position_embedding, batch.positions, 1.0f, branch_.as<float>());
    ops_.add(context_, x_.as<float>(), branch_.as<float>(), 1.0f, n, c.n_embd);
  }
  if (!weights_.token_embedding_norm.empty()) {
    norm(x_.as<float>(), x_.as<float>(), n, weights_.token_embedding_norm, weights_.token_embedding_norm_bias);
  }
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
  norm_heads(q, q_stride, n, shape.n_heads, w.q_norm, w.q_norm_bias);
  norm_heads(k, k_stride, n, shape.n_kv_heads, w.k_norm, w.k_norm_bias);
  if (c.positions == PositionKind::rope && shape.uses_rope) {
    const size_t table = rope_of_[index];
    const ops::RopeArgs rope_args = {c.rope, c.rope_dim, inv_freqs_[table].as<float>(), magnitudes_[table]};
    ops_.rope(context_, rope_args, q, q_stride, n, shape.n_heads, c.head_dim_k, batch.positions.data());
    ops_.rope(context_, rope_args, k, k_stride, n, shape.n_kv_heads, c.head_dim_k, batch.positions.data());
  }
  const int layer = static_cast<int>(index);
  const auto group = static_cast<size_t>(groups_.group_of[index]);
  ops_.store_kv(context_, kv.layout(layer), kv.layer_data(layer), k, k_stride, v, v_stride, n,
                plan_->slots.data() + group * static_cast<size_t>(n));
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

// out += scale * what the rows' adapters change of a matrix, for the rows that have any.
void Stage::adapt(size_t index, LowRank LayerAdapter::* which, const float* in, int64_t in_stride, float* out,
                  int64_t out_stride, float scale) {
  for (const StepPlan::Part& part : plan_->parts) adapt_part(part, index, which, in, in_stride, out, out_stride, scale);
}

void Stage::adapt_part(const StepPlan::Part& part, size_t index, LowRank LayerAdapter::* which, const float* in,
                       int64_t in_stride, float* out, int64_t out_stride, float scale) {
  if (part.adapters == nullptr) return;
  const int64_t begin = part.rows.begin, n = part.rows.end - begin;
  const std::array<ops::RowRun, 1> run = {{{0, n, part.rows.role}}};
  for (const auto& [adapter, strength] : part.adapters->adapters) {
    const LowRank& change = adapter->layers[index].*which;
    if (!change.a) continue;
    const int64_t rank = change.a.n_rows;
    if (low_rank_.size() < static_cast<size_t>(n * rank) * sizeof(float)) low_rank_ = floats(n * rank);
    const ops::Projection down[] = {{.weight = &change.a, .out = low_rank_.as<float>(), .out_stride = rank}};
    ops_.linear(context_, in + begin * in_stride, in_stride, run, std::span(down));
    const ops::Projection up[] = {{.weight = &change.b,
                                   .out = out + begin * out_stride,
                                   .out_stride = out_stride,
                                   .scale = scale * strength,
                                   .accumulate = true}};
    ops_.linear(context_, low_rank_.as<float>(), rank, run, std::span(up));
  }
}

// The MLP's hidden rows of a part. Rows whose adapters change what the activation sees take steps that others fuse: by
// their own adapters, whatever else is in the batch.
void Stage::hidden_of_part(const StepPlan::Part& part, size_t index, const float* input) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  const int64_t n_ff = c.layers[index].n_ff, begin = part.rows.begin, n = part.rows.end - begin;
  const std::array<ops::RowRun, 1> run = {{{0, n, part.rows.role}}};
  const float* in = input + begin * c.n_embd;
  float* hidden = mlp_.as<float>() + begin * n_ff;
  const bool is_changed = part.adapters != nullptr &&
                          std::any_of(part.adapters->adapters.begin(), part.adapters->adapters.end(),
                                      [&](const auto& each) { return each.first->layers[index].changes_hidden(); });
  if (!is_changed && w.gate) {
    ops_.linear_glu(context_, in, c.n_embd, run, w.gate, w.gate_bias.data_or_null(), w.up, w.up_bias.data_or_null(),
                    c.activation, hidden, n_ff);
    return;
  }
  if (!w.gate && !w.gate_up) {
    const ops::Projection up[] = {{.weight = &w.up,
                                   .bias = w.up_bias.data_or_null(),
                                   .out = hidden,
                                   .out_stride = n_ff,
                                   .activation = is_changed ? ops::Activation::none : c.activation}};
    ops_.linear(context_, in, c.n_embd, run, std::span(up));
    if (!is_changed) return;
    adapt_part(part, index, &LayerAdapter::up, input, c.n_embd, mlp_.as<float>(), n_ff);
    if (ones_.size() < static_cast<size_t>(n_ff) * sizeof(float)) {
      const std::vector<float> ones(static_cast<size_t>(n_ff), 1.0f);
      ones_ = floats(n_ff);
      ops_.memory->upload(ones_.data(), ones.data(), ones.size() * sizeof(float));
    }
    ops_.glu(context_, c.activation, hidden, n_ff, ones_.as<float>(), 0, hidden, n_ff, n, n_ff);
    return;
  }
  const int64_t width = 2 * n_ff, n_rows = plan_->runs.back().end;
  if (gate_up_.size() < static_cast<size_t>(n_rows * width) * sizeof(float)) gate_up_ = floats(n_rows * width);
  float* gate = gate_up_.as<float>() + begin * width;
  if (w.gate_up) {
    const ops::Projection both[] = {{.weight = &w.gate_up, .out = gate, .out_stride = width}};
    ops_.linear(context_, in, c.n_embd, run, std::span(both));
    adapt_part(part, index, &LayerAdapter::gate_up, input, c.n_embd, gate_up_.as<float>(), width);
  } else {
    const ops::Projection both[] = {
        {.weight = &w.gate, .bias = w.gate_bias.data_or_null(), .out = gate, .out_stride = width},
        {.weight = &w.up, .bias = w.up_bias.data_or_null(), .out = gate + n_ff, .out_stride = width}};
    ops_.linear(context_, in, c.n_embd, run, std::span(both));
    adapt_part(part, index, &LayerAdapter::gate, input, c.n_embd, gate_up_.as<float>(), width);
    adapt_part(part, index, &LayerAdapter::up, input, c.n_embd, gate_up_.as<float>() + n_ff, width);
  }
  ops_.glu(context_, c.activation, gate, width, gate + n_ff, width, hidden, n_ff, n, n_ff);
}

// out (+)= the MLP of `input` (n, n_embd), and of its experts where there are any.
void Stage::feed_forward(size_t index, const float* input, float* out, bool accumulate) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  const int64_t n_ff = c.layers[index].n_ff;
  const float scale = accumulate ? c.residual_scale : 1.0f;
  if (w.experts) {
    experts(index, input, out, scale, accumulate);
    if (n_ff == 0) return;
    accumulate = true;
  }
  float* hidden = mlp_.as<float>();
  if (!plan_->parts.empty()) {
    for (const StepPlan::Part& part : plan_->parts) hidden_of_part(part, index, input);
  } else if (w.gate_up) {
    project(input, c.n_embd, {{.weight = &w.gate_up, .out = gate_up_.as<float>(), .out_stride = 2 * n_ff}});
    const float* gate = gate_up_.as<float>();
    ops_.glu(context_, c.activation, gate, 2 * n_ff, gate + n_ff, 2 * n_ff, hidden, n_ff, plan_->runs.back().end, n_ff);
  } else if (w.gate) {
    if (observer_ != nullptr) {
      for (const ops::Matrix* m : {&w.gate, &w.up}) observer_->observe(*m, input, c.n_embd, plan_->runs.back().end);
    }
    ops_.linear_glu(context_, input, c.n_embd, plan_->runs, w.gate, w.gate_bias.data_or_null(), w.up,
                    w.up_bias.data_or_null(), c.activation, hidden, n_ff);
  } else {
    project(input, c.n_embd,
            {{.weight = &w.up,
              .bias = w.up_bias.data_or_null(),
              .out = hidden,
              .out_stride = n_ff,
              .activation = c.activation}});
  }
  if (w.experts.shared_gate) return shared_sum(index, input, hidden, out, scale, accumulate);
  project(hidden, n_ff,
          {{.weight = &w.down,
            .bias = w.down_bias.data_or_null(),
            .out = out,
            .out_stride = c.n_embd,
            .scale = scale,
            .accumulate = accumulate}});
  adapt(index, &LayerAdapter::down, hidden, n_ff, out, c.n_embd, scale);
}

void Stage::layer(size_t index, const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  const int64_t n = batch.n_rows();
  float* stream = x_.as<float>();
  float* input = normed_.as<float>();
  float* output = branch_.as<float>();
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
      ops_.add(context_, stream, output, c.residual_scale, n, c.n_embd);
      norm(stream, input, n, w.mlp_norm, w.mlp_norm_bias);
      feed_forward(index, input, output, false);
      norm(output, output, n, w.mlp_post_norm, {});
      ops_.add(context_, stream, output, c.residual_scale, n, c.n_embd);
      return;
    case NormPlaces::post:
      attention(index, stream, batch, kv, output, false);
      norm(output, output, n, w.attn_post_norm, {});
      ops_.add(context_, stream, output, c.residual_scale, n, c.n_embd);
      feed_forward(index, stream, output, false);
      norm(output, output, n, w.mlp_post_norm, {});
      ops_.add(context_, stream, output, c.residual_scale, n, c.n_embd);
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
      ops_.add(context_, stream, output, c.residual_scale, n, c.n_embd);
      return;
    }
  }
}

// Leaves the normalized hidden states of the picked rows, and the logits of those that want them.
void Stage::finish(const Batch& batch) {
  const Config& c = weights_.config;
  const auto n = static_cast<int64_t>(batch.logit_rows.size());
  float* rows = picked_.as<float>();
  ops_.pick_rows(context_, x_.as<float>(), c.n_embd, plan_->picked, rows);
  norm(rows, rows, static_cast<int64_t>(plan_->picked.size()), weights_.output_norm, weights_.output_norm_bias);
  if (n == 0) return;
  const ops::Projection head[] = {{.weight = &weights_.output,
                                   .bias = weights_.output_bias.data_or_null(),
                                   .out = logits_.as<float>(),
                                   .out_stride = c.n_vocab,
                                   .scale = c.logit_scale}};
  ops_.linear(context_, rows, c.n_embd, plan_->logit_runs, std::span(head));
  if (c.final_softcap > 0) ops_.softcap(context_, logits_.as<float>(), n * c.n_vocab, c.final_softcap);
}

// Steps that only decode, one row a sequence, repeat: everything that the ops are called with is told by these numbers.
uint64_t Stage::step_key(const Batch& batch, cache::KvStore& kv, bool is_last) const {
  const bool repeats = std::all_of(batch.sequences.begin(), batch.sequences.end(),
                                   [](const SequenceRows& s) { return s.role == ops::Role::decode && s.n_rows == 1; });
  if (!repeats || !plan_->parts.empty()) return 0;
  uint64_t key = 1469598103934665603u;  // FNV-1a over the numbers
  const uint64_t numbers[] = {
      static_cast<uint64_t>(batch.n_rows()),
      is_last ? batch.logit_rows.size() + 1 : 0,
      batch.hidden_rows.size(),
      reinterpret_cast<uintptr_t>(logits_.data()),
  };
  const auto add = [&](uint64_t number) { key = (key ^ number) * 1099511628211u ^ key >> 29; };
  for (const uint64_t number : numbers) add(number);
  // Another cache may begin where an earlier one began, and go on elsewhere.
  for (int64_t layer = begin_; layer < end_; ++layer)
    add(reinterpret_cast<uintptr_t>(kv.layer_data(static_cast<int>(layer))));
  return key == 0 ? 1 : key;
}

void Stage::take_stream(const Stage& before, int64_t n_rows) {
  const size_t n_bytes = static_cast<size_t>(n_rows * weights_.config.n_embd) * sizeof(float);
  if (before.ops_.memory->is_host) return ops_.memory->upload(x_.data(), before.x_.data(), n_bytes);
  if (moved_.size() < n_bytes) moved_ = Buffer(n_bytes, "A stage's input");
  before.ops_.memory->download(moved_.data(), before.x_.data(), n_bytes);
  ops_.memory->upload(x_.data(), moved_.data(), n_bytes);
}

void Stage::run(const Batch& batch, const StepPlan& plan, cache::KvStore& kv, bool is_last, const bool* cancelled) {
  plan_ = &plan;
  const bool has_output = is_last && !plan.picked.empty();
  const size_t logit_bytes = batch.logit_rows.size() * static_cast<size_t>(weights_.config.n_vocab) * sizeof(float);
  if (has_output && logits_.size() < logit_bytes) logits_ = ops_.memory->allocate(logit_bytes, "The logits of a step");

  // Tells the backend where a step begins and ends, also when it is left by an error.
  struct Step {
    const ops::Ops& ops;
    const ops::Context& context;
    bool is_replayed = false, is_complete = false;
    Step(const ops::Ops& o, const ops::Context& c, const ops::StepInputs& inputs) : ops(o), context(c) {
      if (ops.begin_step != nullptr) is_replayed = ops.begin_step(context, inputs);
    }
    void complete() {
      is_complete = true;
      if (ops.end_step != nullptr) ops.end_step(context, true);
    }
    ~Step() {
      if (!is_complete && ops.end_step != nullptr) ops.end_step(context, false);
    }
  };
  Step step(ops_, context_,
            {batch.positions, plan.slots, plan.spans, plan.picked,
             ops_.begin_step != nullptr ? step_key(batch, kv, is_last) : 0});
  if (!step.is_replayed) {
    for (int64_t index = begin_; index < end_; ++index) {
      if (cancelled != nullptr && __atomic_load_n(cancelled, __ATOMIC_RELAXED))
        throw Error(ErrorKind::cancelled, "The computation was stopped.");
      layer(static_cast<size_t>(index), batch, kv);
    }
    if (has_output) finish(batch);
  }
  step.complete();
}

// n floats from the first on; `copy` is where a device's come to.
std::span<const float> Stage::in_host(const Buffer& values, int64_t first, int64_t n, Buffer& copy) const {
  const float* from = values.as<float>() + first;
  const auto size = static_cast<size_t>(n);
  if (n == 0 || ops_.memory->is_host) return {from, size};
  if (copy.size() < size * sizeof(float)) copy = Buffer(size * sizeof(float), "The output of a step");
  ops_.memory->download(copy.data(), from, size * sizeof(float));
  return {copy.as<float>(), size};
}

StepOutput Stage::output(const Batch& batch) {
  const Config& c = weights_.config;
  const auto n_logits = static_cast<int64_t>(batch.logit_rows.size());
  const auto n_hidden = static_cast<int64_t>(batch.hidden_rows.size());
  return {in_host(logits_, 0, n_logits * c.n_vocab, host_logits_),
          in_host(picked_, n_logits * c.n_embd, n_hidden * c.n_embd, host_hidden_)};
}

}  // namespace halfbyte::model
