// A stage's MLP, plain and gated, and with adapters that change what the activation sees.
#include <algorithm>
#include <array>

#include "model/stage.h"

namespace halfbyte::model {

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
  if (!is_changed && w.gate && !c.layers[index].cuts_gates()) {
    ops_.linear_glu(context_, in, c.n_embd, run, w.gate, w.gate_bias.data_or_null(), w.up, w.up_bias.data_or_null(),
                    c.activation, hidden, n_ff, nullptr);
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
    ops_.glu(context_, c.activation, hidden, n_ff, ones(n_ff), 0, hidden, n_ff, n, n_ff);
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
  unite_gates(index, gate, hidden, n);
}

// hidden (n, n_ff) = act(gate) * up of rows of both.
void Stage::unite_gates(size_t index, float* gate_up, float* hidden, int64_t n) {
  const LayerConfig& layer = weights_.config.layers[index];
  const int64_t n_ff = layer.n_ff, width = 2 * n_ff;
  if (layer.cuts_gates()) ops_.cut(context_, gate_up, width, n, n_ff, layer.gate_cut);
  ops_.glu(context_, weights_.config.activation, gate_up, width, gate_up + n_ff, width, hidden, n_ff, n, n_ff);
}

// out (+)= the MLP of `input` (n, n_embd), and of its experts where they read the same.
void Stage::feed_forward(size_t index, const float* input, float* out, bool accumulate) {
  const Config& c = weights_.config;
  const LayerWeights& w = weights_.layers[index];
  const int64_t n_ff = c.layers[index].n_ff;
  const float scale = accumulate ? c.residual_scale : 1.0f;
  if (w.experts && !c.experts.stand_beside) {
    route(index, input);
    experts(index, input, out, scale, accumulate);
    if (n_ff == 0) return;
    accumulate = true;
  }
  float* hidden = mlp_.as<float>();
  if (!plan_->parts.empty()) {
    for (const StepPlan::Part& part : plan_->parts) hidden_of_part(part, index, input);
  } else if (w.gate_up || c.layers[index].cuts_gates()) {
    float* rows = gate_up_.as<float>();
    if (w.gate_up) {
      project(input, c.n_embd, {{.weight = &w.gate_up, .out = rows, .out_stride = 2 * n_ff}});
    } else {
      project(input, c.n_embd,
              {{.weight = &w.gate, .bias = w.gate_bias.data_or_null(), .out = rows, .out_stride = 2 * n_ff},
               {.weight = &w.up, .bias = w.up_bias.data_or_null(), .out = rows + n_ff, .out_stride = 2 * n_ff}});
    }
    unite_gates(index, rows, hidden, plan_->runs.back().end);
  } else if (w.gate) {
    if (observer_ != nullptr) {
      for (const ops::Matrix* m : {&w.gate, &w.up}) observer_->observe(*m, input, c.n_embd, plan_->runs.back().end);
    }
    ops_.linear_glu(context_, input, c.n_embd, plan_->runs, w.gate, w.gate_bias.data_or_null(), w.up,
                    w.up_bias.data_or_null(), c.activation, hidden, n_ff, &w.down);
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

}  // namespace halfbyte::model
