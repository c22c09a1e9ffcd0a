// Mixtures of experts: rows are sorted by expert, and each expert's panels meet all of its rows at once. A step that
// decodes one sequence is the case of one row for each chosen expert: only those experts' weights are read.
#include <algorithm>
#include <cstring>

#include "cpu/panels.h"

namespace halfbyte::cpu {

namespace {

using ops::Matrix;

// A slot is t * n_used + j: the j-th expert of row t.
struct Group {
  int32_t expert;
  int64_t begin, end;  // of Sorted::slots
};
struct Sorted {
  std::vector<int64_t> slots;  // by expert, each expert's in increasing order
  std::vector<Group> groups;   // of experts that some row chose
  std::vector<Rows> rows;      // of each group
};

// rows_each slots in turn share one of `rows`.
Sorted sort_by_expert(const Backend& b, const ops::Context& context, const ops::Chosen& chosen, const Matrix& stack,
                      const Rows& rows, int rows_each) {
  const int64_t n_slots = rows.n * rows_each;
  const auto n_experts = static_cast<size_t>(stack.n_matrices);
  std::vector<int64_t> next(n_experts + 1);
  for (int64_t slot = 0; slot < n_slots; ++slot) ++next[static_cast<size_t>(chosen.experts[slot]) + 1];
  Sorted out;
  for (size_t e = 0; e < n_experts; ++e) {
    if (next[e + 1] > 0) out.groups.push_back({static_cast<int32_t>(e), next[e], next[e] + next[e + 1]});
    next[e + 1] += next[e];
  }
  Scratch& s = b.scratch(context);
  out.slots.resize(static_cast<size_t>(n_slots));
  s.sorted_quantized.resize(out.slots.size());
  s.sorted_pointers.resize(out.slots.size());
  for (int64_t slot = 0; slot < n_slots; ++slot) {
    const auto i = static_cast<size_t>(next[static_cast<size_t>(chosen.experts[slot])]++);
    out.slots[i] = slot;
    if (rows.quantized != nullptr) s.sorted_quantized[i] = rows.quantized[slot / rows_each];
    s.sorted_pointers[i] = rows.floats[slot / rows_each];
  }
  for (const Group& group : out.groups) {
    out.rows.push_back({rows.quantized != nullptr ? s.sorted_quantized.data() + group.begin : nullptr,
                        s.sorted_pointers.data() + group.begin, group.end - group.begin});
  }
  arrange(b, context, stack.n_cols, out.rows);
  return out;
}

// The limits and the shift of a unit, before its activation.
void bound(const ops::ExpertUnit& unit, int64_t n, float* gate, float* up) {
  if (unit.limit > 0) {
    for (int64_t i = 0; i < n; ++i) {
      gate[i] = std::min(gate[i], unit.limit);
      up[i] = std::clamp(up[i], -unit.limit, unit.limit);
    }
  }
  if (unit.shift != 0) {
    for (int64_t i = 0; i < n; ++i) up[i] += unit.shift;
  }
}

}  // namespace

void expert_glu(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::ExpertUnit& unit, const ops::Chosen& chosen, float* out) {
  if (runs.empty()) return;
  const Backend& b = backend_of(context);
  Scratch& s = b.scratch(context);
  const Matrix &gate = *unit.gate, &up = *unit.up;
  const int64_t n_tokens = runs.back().end, n_ff = gate.n_rows;
  const Matrix* both[] = {&gate, &up};
  const Rows rows = quantize(b, context, {x, x_stride, gate.n_cols, n_tokens}, both);
  const Sorted sorted = sort_by_expert(b, context, chosen, gate, rows, chosen.n_used);
  const int at_once = b.kernels.tile_panels;
  const int64_t n_units = (n_panels(gate) + at_once - 1) / at_once;
  context.pool->parallel_for(
      n_units * static_cast<int64_t>(sorted.groups.size()), 1, [&](int64_t begin, int64_t end, int worker) {
        Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
        for (int64_t i = begin; i < end; ++i) {
          const Group& group = sorted.groups[static_cast<size_t>(i / n_units)];
          const Rows& mine = sorted.rows[static_cast<size_t>(i / n_units)];
          const int64_t first = i % n_units * at_once, panel_floats = mine.n * kPanelRows;
          const int n = static_cast<int>(std::min<int64_t>(at_once, n_panels(gate) - first));
          float* gated = w.out.at_least<float>(2 * n * panel_floats);
          float* raised = gated + n * panel_floats;
          multiply_panels(b, w, gate, group.expert, first, n, mine, gated);
          multiply_panels(b, w, up, group.expert, first, n, mine, raised);
          for (int p = 0; p < n; ++p, gated += panel_floats, raised += panel_floats) {
            const int64_t row = (first + p) * kPanelRows, n_rows = std::min<int64_t>(kPanelRows, n_ff - row);
            if (unit.gate_bias != nullptr) add_bias(unit.gate_bias + group.expert * n_ff + row, n_rows, mine.n, gated);
            if (unit.up_bias != nullptr) add_bias(unit.up_bias + group.expert * n_ff + row, n_rows, mine.n, raised);
            bound(unit, panel_floats, gated, raised);
            b.kernels.glu(static_cast<int>(unit.activation), gated, raised, gated, panel_floats);
            for (int64_t t = 0; t < mine.n; ++t)
              std::memcpy(out + sorted.slots[static_cast<size_t>(group.begin + t)] * n_ff + row, gated + t * kPanelRows,
                          static_cast<size_t>(n_rows) * sizeof(float));
          }
        }
      });
}

// Work is split by panels of the output: each goes through all experts in increasing order, so that sums need neither
// memory between them nor an order of workers.
void expert_sum(const ops::Context& context, const float* hidden, std::span<const ops::RowRun> runs, const Matrix& down,
                const float* bias, const ops::Chosen& chosen, float scale, bool accumulate, float* out,
                int64_t out_stride) {
  if (runs.empty()) return;
  const Backend& b = backend_of(context);
  Scratch& s = b.scratch(context);
  const int64_t n_tokens = runs.back().end, n_slots = n_tokens * chosen.n_used;
  const Matrix* matrices[] = {&down};
  const Rows rows = quantize(b, context, {hidden, down.n_cols, down.n_cols, n_slots}, matrices);
  const Sorted sorted = sort_by_expert(b, context, chosen, down, rows, 1);
  int64_t largest = 0;
  for (const Group& group : sorted.groups) largest = std::max(largest, group.end - group.begin);
  const int at_once = b.kernels.tile_panels;
  const int64_t n_units = (n_panels(down) + at_once - 1) / at_once;
  context.pool->parallel_for(n_units, 1, [&](int64_t begin, int64_t end, int worker) {
    Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
    float* sums = w.out.at_least<float>((n_tokens + largest) * at_once * kPanelRows);
    float* values = sums + n_tokens * at_once * kPanelRows;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * at_once;
      const int n = static_cast<int>(std::min<int64_t>(at_once, n_panels(down) - first));
      std::fill_n(sums, n_tokens * n * kPanelRows, 0.0f);
      for (size_t g = 0; g < sorted.groups.size(); ++g) {
        const Group& group = sorted.groups[g];
        const Rows& mine = sorted.rows[g];
        multiply_panels(b, w, down, group.expert, first, n, mine, values);
        for (int p = 0; p < n; ++p) {
          const int64_t row = (first + p) * kPanelRows;
          float* value = values + p * mine.n * kPanelRows;
          if (bias != nullptr)
            add_bias(bias + group.expert * down.n_rows + row, std::min<int64_t>(kPanelRows, down.n_rows - row), mine.n,
                     value);
          for (int64_t t = 0; t < mine.n; ++t, value += kPanelRows) {
            const int64_t slot = sorted.slots[static_cast<size_t>(group.begin + t)];
            float* sum = sums + (p * n_tokens + slot / chosen.n_used) * kPanelRows;
            for (int r = 0; r < kPanelRows; ++r) sum[r] += chosen.weights[slot] * value[r];
          }
        }
      }
      for (int p = 0; p < n; ++p) {
        const int64_t row = (first + p) * kPanelRows;
        b.kernels.finish({.values = sums + p * n_tokens * kPanelRows,
                          .n_tokens = n_tokens,
                          .n_rows = static_cast<int>(std::min<int64_t>(kPanelRows, down.n_rows - row)),
                          .scale = scale,
                          .accumulate = accumulate,
                          .out = out + row,
                          .out_stride = out_stride});
      }
    }
  });
}

}  // namespace halfbyte::cpu
