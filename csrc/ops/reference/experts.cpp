// Mixtures of experts: the choice, and the products with each row's own experts. Sums in double.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ops/activation.h"
#include "ops/reference/reference.h"

namespace halfbyte::ops::reference {

namespace {

constexpr int64_t kSplitTokens = 64;  // fewer are chosen for on the caller's thread

// Takes the experts of all groups but the best ones out of the choice.
void leave_groups(const Routing& r, const std::vector<float>& keys, std::vector<bool>& is_taken) {
  const auto per_group = static_cast<size_t>(r.n_experts / r.n_groups), n = static_cast<size_t>(r.n_groups);
  std::vector<float> scores(n);
  for (size_t g = 0; g < n; ++g) {
    float first = -INFINITY, second = -INFINITY;
    for (size_t e = g * per_group; e < (g + 1) * per_group; ++e) {
      if (keys[e] > first)
        second = std::exchange(first, keys[e]);
      else if (keys[e] > second)
        second = keys[e];
    }
    scores[g] = r.gating == Gating::softmax ? first : first + second;
  }
  std::vector<bool> is_open(n);
  for (int i = 0; i < r.n_groups_used; ++i) {
    size_t best = n;
    for (size_t g = 0; g < n; ++g) {
      if (!is_open[g] && (best == n || scores[g] > scores[best])) best = g;
    }
    is_open[best] = true;
  }
  for (size_t e = 0; e < keys.size(); ++e) is_taken[e] = !is_open[e / per_group];
}

void route_row(const Routing& r, const float* logits, std::vector<float>& scores, std::vector<float>& keys,
               int32_t* experts, float* weights) {
  const auto n = static_cast<size_t>(r.n_experts);
  float total = 0.0f;
  if (r.gating == Gating::softmax) {
    const float highest = *std::max_element(logits, logits + n);
    for (size_t e = 0; e < n; ++e) total += scores[e] = std::exp(logits[e] - highest);
  } else {
    for (size_t e = 0; e < n; ++e) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    total = 1.0f;
  }
  // Softmax's common factor changes no choice, unless something is added afterwards.
  for (size_t e = 0; e < n; ++e) keys[e] = r.bias != nullptr ? scores[e] / total + r.bias[e] : scores[e];
  float chosen_sum = 0.0f;
  std::vector<bool> is_taken(n);
  if (r.n_groups > 1) leave_groups(r, keys, is_taken);
  for (int j = 0; j < r.n_used; ++j) {
    size_t best = n;
    for (size_t e = 0; e < n; ++e) {
      if (!is_taken[e] && (best == n || keys[e] > keys[best])) best = e;
    }
    is_taken[best] = true;
    experts[j] = static_cast<int32_t>(best);
    weights[j] = scores[best];
    chosen_sum += scores[best];
  }
  const float divisor = r.normalize ? chosen_sum + 1e-20f : total;
  for (int j = 0; j < r.n_used; ++j)
    weights[j] = r.scale * (weights[j] / divisor) * (r.strengths != nullptr ? r.strengths[experts[j]] : 1.0f);
}

// Calls use(row r of the expert's matrix, slot) for every slot (t * n_used + j); a row is decoded once for all of them.
template <class Use>
void for_each_row(const Context& context, const Matrix& stack, int64_t n_slots, const Chosen& chosen, Use&& use) {
  context.pool->parallel_for(stack.n_rows, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(static_cast<size_t>(stack.n_cols));
    const int64_t row_bytes = stack.format->row_bytes(stack.n_cols);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t e = 0; e < stack.n_matrices; ++e) {
        bool is_decoded = false;
        for (int64_t slot = 0; slot < n_slots; ++slot) {
          if (chosen.experts[slot] != e) continue;
          if (!is_decoded)
            stack.format->decode(stack.data + e * stack.matrix_bytes + r * row_bytes, row.data(),
                                 stack.n_cols / stack.format->block_weights);
          is_decoded = true;
          use(row.data(), r, e, slot);
        }
      }
    }
  });
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

void route(const Context& context, const Routing& routing, const float* logits, int64_t n_tokens, int32_t* experts,
           float* weights) {
  const auto some = [&](int64_t begin, int64_t end, int) {
    std::vector<float> scores(static_cast<size_t>(routing.n_experts)), keys(scores.size());
    for (int64_t t = begin; t < end; ++t)
      route_row(routing, logits + t * routing.n_experts, scores, keys, experts + t * routing.n_used,
                weights + t * routing.n_used);
  };
  if (n_tokens < kSplitTokens)
    some(0, n_tokens, 0);
  else
    context.pool->parallel_for(n_tokens, 1, some);
}

void expert_glu(const Context& context, const float* x, int64_t x_stride, std::span<const RowRun> runs,
                const ExpertUnit& unit, const Chosen& chosen, float* out) {
  const int64_t n_slots = runs.empty() ? 0 : runs.back().end * chosen.n_used, n_ff = unit.gate->n_rows;
  std::vector<float> gates(static_cast<size_t>(n_slots * n_ff));
  const auto product = [&](const Matrix& stack, const float* bias, float* to) {
    for_each_row(context, stack, n_slots, chosen, [&](const float* row, int64_t r, int64_t e, int64_t slot) {
      to[slot * n_ff + r] = static_cast<float>(dot(row, x + slot / chosen.n_used * x_stride, stack.n_cols)) +
                            (bias != nullptr ? bias[e * n_ff + r] : 0.0f);
    });
  };
  product(*unit.gate, unit.gate_bias, gates.data());
  product(*unit.up, unit.up_bias, out);
  for (int64_t i = 0; i < n_slots * n_ff; ++i) {
    float gate = gates[static_cast<size_t>(i)], up = out[i];
    if (unit.limit > 0) {
      gate = std::min(gate, unit.limit);
      up = std::clamp(up, -unit.limit, unit.limit);
    }
    out[i] = activate(unit.activation, gate) * (up + unit.shift);
  }
}

void expert_sum(const Context& context, const float* hidden, std::span<const RowRun> runs, const Matrix& down,
                const float* bias, const Chosen& chosen, float scale, bool accumulate, float* out, int64_t out_stride) {
  const int64_t n_tokens = runs.empty() ? 0 : runs.back().end;
  std::vector<double> sums(static_cast<size_t>(n_tokens * down.n_rows));
  for_each_row(
      context, down, n_tokens * chosen.n_used, chosen, [&](const float* row, int64_t r, int64_t e, int64_t slot) {
        const double value =
            dot(row, hidden + slot * down.n_cols, down.n_cols) + (bias != nullptr ? bias[e * down.n_rows + r] : 0.0f);
        sums[static_cast<size_t>(slot / chosen.n_used * down.n_rows + r)] += chosen.weights[slot] * value;
      });
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t r = 0; r < down.n_rows; ++r) {
      const float value = scale * static_cast<float>(sums[static_cast<size_t>(t * down.n_rows + r)]);
      float& to = out[t * out_stride + r];
      to = accumulate ? to + value : value;
    }
  }
}

}  // namespace halfbyte::ops::reference
