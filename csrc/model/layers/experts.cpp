// A stage's mixtures of experts: the router, each row's own experts, and the shared expert's part.
#include <vector>

#include "model/stage.h"

namespace halfbyte::model {

namespace {

ops::ExpertUnit unit_of(const Config& c, const ExpertWeights& w) {
  return {.gate = &w.gate,
          .up = &w.up,
          .gate_bias = w.gate_bias.data_or_null(),
          .up_bias = w.up_bias.data_or_null(),
          .activation = c.activation,
          .limit = c.experts.limit,
          .shift = c.experts.shift};
}

}  // namespace

// chosen_ and shares_ by what the router says of `input` (n, n_embd).
void Stage::route(size_t index, const float* input) {
  const Config& c = weights_.config;
  const LayerConfig& shape = c.layers[index];
  const ExpertWeights& w = weights_.layers[index].experts;
  const int64_t n = plan_->runs.back().end;
  project(input, c.n_embd,
          {{.weight = &w.router,
            .bias = w.router_bias.data_or_null(),
            .out = router_logits_.as<float>(),
            .out_stride = shape.n_experts}});
  ops_.route(context_,
             {.gating = c.experts.gating,
              .n_experts = shape.n_experts,
              .n_used = c.experts.n_used,
              .normalize = c.experts.normalize,
              .scale = c.experts.scale,
              .bias = w.choice_bias.data_or_null(),
              .strengths = w.strengths.data_or_null(),
              .n_groups = c.experts.n_groups,
              .n_groups_used = c.experts.n_groups_used},
             router_logits_.as<float>(), n, chosen_.as<int32_t>(), shares_.as<float>());
}

// out (+)= scale * what the chosen experts make of `input` (n, n_embd).
void Stage::experts(size_t index, const float* input, float* out, float scale, bool accumulate) {
  const Config& c = weights_.config;
  const LayerConfig& shape = c.layers[index];
  const ExpertWeights& w = weights_.layers[index].experts;
  const int64_t n = plan_->runs.back().end;
  if (weights_.expert_ops[index] != &ops_) return sum_on_host(index, input, out, scale, accumulate);
  const ops::Chosen chosen = {c.experts.n_used, chosen_.as<int32_t>(), shares_.as<float>()};
  const std::span<const int32_t> slots(chosen.experts, static_cast<size_t>(n * chosen.n_used));
  if (observer_ != nullptr) {
    for (const ops::Matrix* stack : {&w.gate, &w.up}) {
      if (!stack->name.empty()) observer_->observe_experts(*stack, input, c.n_embd, slots, chosen.n_used);
    }
  }
  float* hidden = expert_hidden_.as<float>();
  ops_.expert_glu(context_, input, c.n_embd, plan_->runs, unit_of(c, w), chosen, hidden);
  if (observer_ != nullptr) observer_->observe_experts(w.down, hidden, shape.n_ff_expert, slots, 1);
  ops_.expert_sum(context_, hidden, plan_->runs, w.down, w.down_bias.data_or_null(), chosen, scale, accumulate, out,
                  c.n_embd);
}

// dense = norm(dense) + norm(experts), of which the router and the experts read the stream by norms of their own.
void Stage::experts_beside(size_t index, int64_t n, float* dense) {
  const ExpertWeights& w = weights_.layers[index].experts;
  const Config& c = weights_.config;
  const Vector none;
  float *input = normed_.as<float>(), *branch = expert_branch_.as<float>();
  norm(dense, dense, n, w.dense_output_norm, none, nullptr);
  norm(x_.as<float>(), input, n, w.router_norm, none, &w.router);
  route(index, input);
  norm(x_.as<float>(), input, n, w.input_norm, none, nullptr);
  experts(index, input, branch, 1.0f, false);
  norm(branch, branch, n, w.output_norm, none, nullptr);
  ops_.add(context_, dense, branch, 1.0f, n, c.n_embd);
}

// The same for experts whose stacks stay on the host: a few rows and numbers cross the bus, matrices never.
void Stage::sum_on_host(size_t index, const float* input, float* out, float scale, bool accumulate) {
  const Config& c = weights_.config;
  const ExpertWeights& w = weights_.layers[index].experts;
  const int64_t n = plan_->runs.back().end, n_slots = n * c.experts.n_used, n_values = n * c.n_embd;
  HostExperts& h = host_experts_;
  const auto room_for = [](Buffer& buffer, int64_t n_floats) {
    const size_t n_bytes = static_cast<size_t>(n_floats) * sizeof(float);
    if (buffer.size() < n_bytes) buffer = Buffer(n_bytes, "The work buffers of experts on the host");
    return buffer.as<float>();
  };
  const auto bytes = [](int64_t n_numbers) { return static_cast<size_t>(n_numbers) * sizeof(float); };
  float *rows = room_for(h.rows, n_values), *sums = room_for(h.sums, n_values);
  float *chosen = room_for(h.chosen, n_slots), *shares = room_for(h.shares, n_slots);
  float* hidden = room_for(h.hidden, n_slots * c.layers[index].n_ff_expert);
  ops_.memory->download(rows, input, bytes(n_values));
  ops_.memory->download(chosen, chosen_.data(), bytes(n_slots));
  ops_.memory->download(shares, shares_.data(), bytes(n_slots));
  const ops::Chosen which = {c.experts.n_used, h.chosen.as<int32_t>(), shares};
  h.ops->expert_glu(h.context, rows, c.n_embd, plan_->runs, unit_of(c, w), which, hidden);
  h.ops->expert_sum(h.context, hidden, plan_->runs, w.down, w.down_bias.data_or_null(), which, scale, false, sums,
                    c.n_embd);
  float* arrived = accumulate ? expert_sums_.as<float>() : out;
  ops_.memory->upload(arrived, sums, bytes(n_values));
  if (accumulate) ops_.add(context_, out, arrived, 1.0f, n, c.n_embd);
}

// out (+)= scale * sigmoid(shared_gate . input) * (down . hidden): the shared expert is a stack of one, always chosen.
void Stage::shared_sum(size_t index, const float* input, const float* hidden, float* out, float scale,
                       bool accumulate) {
  const LayerWeights& w = weights_.layers[index];
  const int64_t n = plan_->runs.back().end;
  int32_t* chosen = shared_.as<int32_t>();
  float* shares = shared_.as<float>() + n;
  project(input, weights_.config.n_embd,
          {{.weight = &w.experts.shared_gate, .out = router_logits_.as<float>(), .out_stride = 1}});
  ops_.route(context_, {.gating = ops::Gating::sigmoid, .n_experts = 1, .n_used = 1, .normalize = false},
             router_logits_.as<float>(), n, chosen, shares);
  if (observer_ != nullptr) observer_->observe(w.down, hidden, w.down.n_cols, n);
  ops_.expert_sum(context_, hidden, plan_->runs, w.down, w.down_bias.data_or_null(), {1, chosen, shares}, scale,
                  accumulate, out, weights_.config.n_embd);
}

}  // namespace halfbyte::model
