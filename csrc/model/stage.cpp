// One stage's forward pass, written once for all families over ops.h; what layers are made of is in layers/.
#include "model/stage.h"

#include <algorithm>

#include "base/error.h"
#include "ops/fused.h"

namespace halfbyte::model {

Stage::Stage(const Weights& weights, const ops::Ops& ops, ThreadPool& pool, int64_t begin, int64_t end,
             const StepLimits& limits, const std::vector<RopeTable>& ropes, const std::vector<size_t>& rope_of,
             const KvGroups& groups)
    : weights_(weights), ops_(ops), begin_(begin), end_(end), rope_of_(rope_of), groups_(groups) {
  const auto owners = std::span(weights.expert_ops).subspan(begin, end - begin);
  const auto elsewhere = std::find_if(owners.begin(), owners.end(), [&](const ops::Ops* o) { return o != &ops; });
  if (elsewhere != owners.end()) {
    host_experts_.ops = *elsewhere;
    host_experts_.context = {&pool, host_experts_.ops->create_scratch(pool)};
  }
  const Config& c = weights.config;
  const StageSizes sizes = stage_sizes(c, limits,
                                       {.is_on_device = !ops.memory->is_host,
                                        .gives_output = end == c.n_layers,
                                        .fuses_gate = weights.fuses_gate(),
                                        .q_rank = weights.q_rank(),
                                        .has_experts = std::count(owners.begin(), owners.end(), &ops) > 0,
                                        .has_experts_on_host = elsewhere != owners.end()});
  x_ = floats(sizes.row);
  normed_ = floats(sizes.row);
  branch_ = floats(sizes.row);
  picked_ = floats(sizes.row);
  layer_rows_ = floats(sizes.layer_rows);
  layer_rows_of_stream_ = floats(sizes.layer_rows);
  streams_ = floats(sizes.streams);
  stream_shares_ = floats(sizes.stream_shares);
  residual_ = floats(sizes.residual);
  expert_branch_ = floats(sizes.expert_branch);
  qkv_ = floats(sizes.qkv);
  attended_ = floats(sizes.attended);
  if (c.latent.rank > 0) {
    latent_ = floats(sizes.latent);
    std::vector<int32_t> own(static_cast<size_t>(sizes.own_heads));
    for (size_t i = 0; i < own.size(); ++i) own[i] = static_cast<int32_t>(i) % most_heads(c);
    own_heads_ = floats(sizes.own_heads);
    ops.memory->upload(own_heads_.data(), own.data(), own.size() * sizeof(int32_t));
  }
  if (sizes.ones > 0) ones(sizes.ones);  // steps that repeat make none
  mlp_ = floats(sizes.mlp);
  gate_up_ = floats(sizes.gate_up);
  router_logits_ = floats(sizes.router_logits);
  chosen_ = floats(sizes.choices);
  shares_ = floats(sizes.choices);
  shared_ = floats(sizes.shared);
  expert_hidden_ = floats(sizes.expert_hidden);
  expert_sums_ = floats(sizes.expert_sums);
  logits_ = floats(sizes.logits);
  likely_ = floats(sizes.likely);
  for (const RopeTable& table : ropes) {
    inv_freqs_.push_back(floats(static_cast<int64_t>(table.inv_freq.size())));
    ops.memory->upload(inv_freqs_.back().data(), table.inv_freq.data(), table.inv_freq.size() * sizeof(float));
    magnitudes_.push_back(table.magnitude);
  }
  context_.pool = &pool;
  context_.scratch = ops.create_scratch(pool);
  if (ops.reserve_scratch != nullptr)
    ops.reserve_scratch(context_, step_shape(c, limits, weights.q_rank(), groups.n_groups()));
}

Stage::~Stage() {
  ops_.destroy_scratch(context_.scratch);
  if (host_experts_.ops != nullptr) host_experts_.ops->destroy_scratch(host_experts_.context.scratch);
}

Buffer Stage::floats(int64_t n) const {
  return ops_.memory->allocate(static_cast<size_t>(n) * sizeof(float), "The work buffers of a step");
}

// n ones, in the backend's memory.
const float* Stage::ones(int64_t n) {
  const std::vector<float> values(static_cast<size_t>(n), 1.0f);
  if (ones_.size() < values.size() * sizeof(float)) {
    ones_ = floats(n);
    ops_.memory->upload(ones_.data(), values.data(), values.size() * sizeof(float));
  }
  return ones_.as<float>();
}

void Stage::project(const float* in, int64_t in_stride, std::initializer_list<ops::Projection> projections) {
  if (observer_ != nullptr) {
    for (const ops::Projection& p : projections)
      if (!p.weight->name.empty()) observer_->observe(*p.weight, in, in_stride, plan_->runs.back().end);
  }
  ops_.linear(context_, in, in_stride, plan_->runs, std::span(projections.begin(), projections.size()));
}

void Stage::norm(const float* in, float* out, int64_t n_rows, const Vector& weight, const Vector& bias,
                 const ops::Matrix* next) {
  const Config& c = weights_.config;
  ops_.norm(context_, c.norm, in, c.n_embd, out, c.n_embd, n_rows, c.n_embd, weight.data_or_null(), bias.data_or_null(),
            c.norm_eps, next);
}

// The residual stream (n_rows, n_embd) += the norm of a block's output.
void Stage::norm_add(float* branch, int64_t n_rows, const Vector& weight) {
  const Config& c = weights_.config;
  ops::norm_add(ops_, context_, c.norm, branch, x_.as<float>(), c.residual_scale, n_rows, c.n_embd,
                weight.data_or_null(), nullptr, c.norm_eps);
}

void Stage::embed(const Batch& batch, const StepPlan& plan) {
  plan_ = &plan;
  const Config& c = weights_.config;
  const int64_t n = batch.n_rows();
  ops_.embed(context_, weights_.token_embedding, batch.tokens, c.embedding_scale, x_.as<float>());
  if (c.positions == PositionKind::learned) {
    ops_.embed(context_, weights_.position_embedding, batch.positions, 1.0f, branch_.as<float>());
    ops_.add(context_, x_.as<float>(), branch_.as<float>(), 1.0f, n, c.n_embd);
  }
  if (!weights_.token_embedding_norm.empty()) {
    norm(x_.as<float>(), x_.as<float>(), n, weights_.token_embedding_norm, weights_.token_embedding_norm_bias, nullptr);
  }
  if (c.n_embd_per_layer > 0) embed_for_layers(batch);
  if (c.streams.n > 0) open_streams(n);
}

// The stream *= the layer's number.
void Stage::scale_stream(const Vector& scale, int64_t n) {
  const int64_t n_embd = weights_.config.n_embd;
  float* stream = x_.as<float>();
  if (!scale.empty())
    ops_.glu(context_, ops::Activation::none, stream, n_embd, scale.data(), 0, stream, n_embd, n, n_embd);
}

void Stage::layer(size_t index, const Batch& batch, cache::KvStore& kv) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  const auto n = [&] { return plan_->runs.back().end; };  // fewer after the last layer's attention
  float* stream = x_.as<float>();
  float* input = normed_.as<float>();
  float* output = branch_.as<float>();
  switch (c.norm_places) {
    case NormPlaces::pre:
      norm(stream, input, n(), w.attn_norm, w.attn_norm_bias, &w.first_of_attention());
      attention(index, input, batch, kv, stream, true);
      norm(stream, input, n(), w.mlp_norm, w.mlp_norm_bias, &w.first_of_mlp());
      feed_forward(index, input, stream, true);
      return;
    case NormPlaces::pre_and_post:
      if (c.streams.n > 0) predict_streams(index, n());
      norm(stream, input, n(), w.attn_norm, w.attn_norm_bias, &w.first_of_attention());
      attention(index, input, batch, kv, output, false);
      norm_add(output, n(), w.attn_post_norm);
      if (c.residual_rank > 0) add_residual(index, n());
      norm(stream, input, n(), w.mlp_norm, w.mlp_norm_bias, &w.first_of_mlp());
      feed_forward(index, input, output, false);
      if (w.experts && c.experts.stand_beside) experts_beside(index, n(), output);
      norm_add(output, n(), w.mlp_post_norm);
      if (c.streams.n > 0) return correct_streams(index, n());
      if (c.n_embd_per_layer > 0) {
        layer_row(index, n());
        norm_add(output, n(), w.embedding.out_norm);
      }
      scale_stream(w.stream_scale, n());
      return;
    case NormPlaces::post:
      attention(index, stream, batch, kv, output, false);
      norm_add(output, n(), w.attn_post_norm);
      feed_forward(index, stream, output, false);
      norm_add(output, n(), w.mlp_post_norm);
      return;
    case NormPlaces::parallel: {
      // The MLP reads the stream before attention adds to it.
      const bool own_norm = !w.mlp_norm.empty();
      if (own_norm)
        norm(stream, input, n(), w.mlp_norm, w.mlp_norm_bias, &w.first_of_mlp());
      else
        norm(stream, input, n(), w.attn_norm, w.attn_norm_bias, &w.first_of_mlp());
      feed_forward(index, input, output, false);
      if (!w.attn_norm_2.empty())
        norm(stream, input, n(), w.attn_norm_2, w.attn_norm_2_bias, &w.first_of_attention());
      else if (own_norm)
        norm(stream, input, n(), w.attn_norm, w.attn_norm_bias, &w.first_of_attention());
      attention(index, input, batch, kv, stream, true);
      ops_.add(context_, stream, output, c.residual_scale, n(), c.n_embd);
      return;
    }
  }
}

// Leaves the normalized hidden states of the picked rows, and the logits of those that want them.
void Stage::finish(const Batch& batch) {
  const Config& c = weights_.config;
  const auto n = static_cast<int64_t>(batch.logit_rows.size());
  float* rows = picked_.as<float>();
  if (c.streams.n > 0) close_streams(plan_->runs.back().end);
  ops_.pick_rows(context_, x_.as<float>(), c.n_embd, plan_->picked, rows);
  norm(rows, rows, static_cast<int64_t>(plan_->picked.size()), weights_.output_norm, weights_.output_norm_bias,
       &weights_.output);
  if (n == 0) return;
  const ops::Projection head[] = {{.weight = &weights_.output,
                                   .bias = weights_.output_bias.data_or_null(),
                                   .out = logits_.as<float>(),
                                   .out_stride = c.n_vocab,
                                   .scale = c.logit_scale}};
  ops_.linear(context_, rows, c.n_embd, plan_->logit_runs, std::span(head));
  if (c.final_softcap > 0) ops_.softcap(context_, logits_.as<float>(), n * c.n_vocab, c.final_softcap);
  if (finds_likely(batch))
    ops_.likely(context_, logits_.as<float>(), n, c.n_vocab, batch.n_likely, likely_.as<ops::Likely>());
}

bool Stage::finds_likely(const Batch& batch) const {
  return batch.n_likely > 0 && !batch.logit_rows.empty() && ops_.likely != nullptr;
}

// Everything that the ops of a repeated step are called with is told by these numbers.
uint64_t Stage::step_key(const Batch& batch, cache::KvStore& kv, bool is_last) const {
  if (!plan_->is_repeated || host_experts_.ops != nullptr) return 0;
  uint64_t key = 1469598103934665603u;  // FNV-1a over the numbers
  const uint64_t numbers[] = {
      static_cast<uint64_t>(batch.n_rows()),       is_last ? 1u : 0u,
      static_cast<uint64_t>(batch.n_likely),       reinterpret_cast<uintptr_t>(logits_.data()),
      reinterpret_cast<uintptr_t>(likely_.data()),
  };
  const auto add = [&](uint64_t number) { key = (key ^ number) * 1099511628211u ^ key >> 29; };
  for (const uint64_t number : numbers) add(number);
  const Config& c = weights_.config;
  for (size_t i = 0; c.temperature_scale != 0 && i < batch.positions.size(); ++i)
    add(static_cast<uint64_t>(batch.positions[i] / c.temperature_length));
  // Another cache may begin where an earlier one began, and go on elsewhere.
  for (int64_t layer = begin_; layer < end_; ++layer)
    add(reinterpret_cast<uintptr_t>(kv.layer_data(static_cast<int>(layer))));
  return key == 0 ? 1 : key;
}

void Stage::take_stream(const Stage& before, int64_t n_rows) {
  const Config& c = weights_.config;
  const auto take = [&](Buffer& to, const Buffer& from, int64_t width) {
    const size_t n_bytes = static_cast<size_t>(n_rows * width) * sizeof(float);
    if (before.ops_.memory->is_host) return ops_.memory->upload(to.data(), from.data(), n_bytes);
    if (moved_.size() < n_bytes) moved_ = Buffer(n_bytes, "A stage's input");
    before.ops_.memory->download(moved_.data(), from.data(), n_bytes);
    ops_.memory->upload(to.data(), moved_.data(), n_bytes);
  };
  take(x_, before.x_, c.n_embd);
  if (c.streams.n > 0) take(streams_, before.streams_, c.streams.n * c.n_embd);
  if (c.n_embd_per_layer > 0) take(layer_rows_, before.layer_rows_, c.n_layers * c.n_embd_per_layer);
}

void Stage::run(const Batch& batch, const StepPlan& plan, const LastPlan* last, cache::KvStore& kv, bool is_last,
                const bool* cancelled) {
  plan_ = &plan;
  // A device has uploaded the whole plan; an observer wants all rows.
  last_ = is_last && ops_.memory->is_host && observer_ == nullptr ? last : nullptr;
  const bool has_output = is_last && !plan.picked.empty();
  const size_t logit_bytes = batch.logit_rows.size() * static_cast<size_t>(weights_.config.n_vocab) * sizeof(float);
  if (has_output && logits_.size() < logit_bytes) logits_ = ops_.memory->allocate(logit_bytes, "The logits of a step");
  const size_t likely_bytes = batch.logit_rows.size() * static_cast<size_t>(batch.n_likely) * sizeof(ops::Likely);
  if (has_output && finds_likely(batch) && likely_.size() < likely_bytes)
    likely_ = ops_.memory->allocate(likely_bytes, "The likely tokens of a step");

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

// n values from the first on; `copy` is where a device's come to.
template <class T>
std::span<T> Stage::in_host(Buffer& values, int64_t first, int64_t n, Buffer& copy) {
  T* from = values.as<T>() + first;
  const auto size = static_cast<size_t>(n);
  if (n == 0 || ops_.memory->is_host) return {from, size};
  if (copy.size() < size * sizeof(T)) copy = Buffer(size * sizeof(T), "The output of a step");
  ops_.memory->download(copy.data(), from, size * sizeof(T));
  return {copy.as<T>(), size};
}

StepOutput Stage::output(const Batch& batch) {
  const Config& c = weights_.config;
  const auto n_logits = static_cast<int64_t>(batch.logit_rows.size());
  const auto n_hidden = static_cast<int64_t>(batch.hidden_rows.size());
  const int32_t n_likely = finds_likely(batch) ? batch.n_likely : 0;
  are_logits_in_host_ = ops_.memory->is_host || n_likely == 0;
  if (are_logits_in_host_) in_host<float>(logits_, 0, n_logits * c.n_vocab, host_logits_);
  return {.hidden = in_host<float>(picked_, n_logits * c.n_embd, n_hidden * c.n_embd, host_hidden_),
          .likely = in_host<ops::Likely>(likely_, 0, n_logits * n_likely, host_likely_),
          .n_likely = n_likely};
}

std::span<float> Stage::logits(int64_t first_row, int64_t n) {
  const int64_t n_vocab = weights_.config.n_vocab, first = first_row * n_vocab;
  if (!are_logits_in_host_) return in_host<float>(logits_, first, n * n_vocab, host_logits_);
  Buffer& from = ops_.memory->is_host ? logits_ : host_logits_;
  return {from.as<float>() + first, static_cast<size_t>(n * n_vocab)};
}

}  // namespace halfbyte::model
