// Matrix products: quantize the input once, split panels among workers, finish 16 rows at a time.
#include <algorithm>

#include "cpu/panels.h"

namespace halfbyte::cpu {

namespace {

using ops::Matrix;
using ops::Projection;

// Bias, activation, scale, and the write (or add) to the output.
void finish_panel(const Backend& b, const Projection& p, int64_t panel, int64_t n_tokens, const float* values) {
  const int64_t first = panel * kPanelRows;
  b.kernels.finish({.values = values,
                    .n_tokens = n_tokens,
                    .n_rows = static_cast<int>(std::min<int64_t>(kPanelRows, p.weight->n_rows - first)),
                    .bias = p.bias != nullptr ? p.bias + first : nullptr,
                    .activation = static_cast<int>(p.activation),
                    .scale = p.scale,
                    .accumulate = p.accumulate,
                    .out = p.out + first,
                    .out_stride = p.out_stride});
}

// So many panels are one piece of work: more than one only where a kernel shares loads between them.
int panels_at_once(const Backend& b, const Input& in) {
  return in.n_tokens > b.kernels.direct_tokens ? b.kernels.tile_panels : 1;
}

// Calls job(matrix, first panel, number of panels, worker) for all panels of all matrices, on all workers.
void for_each_panels(const ops::Context& context, std::span<const Matrix* const> matrices, int at_once,
                     FunctionRef<void(size_t matrix, int64_t first, int n, int worker)> job) {
  const auto n_units = [&](const Matrix& m) { return (n_panels(m) + at_once - 1) / at_once; };
  int64_t total = 0;
  for (const Matrix* m : matrices) total += n_units(*m);
  context.pool->parallel_for(total, 1, [&](int64_t begin, int64_t end, int worker) {
    size_t i = 0;
    int64_t before = 0;  // units of matrices 0 .. i - 1
    for (int64_t unit = begin; unit < end; ++unit) {
      while (unit - before >= n_units(*matrices[i])) before += n_units(*matrices[i++]);
      const int64_t first = (unit - before) * at_once;
      job(i, first, static_cast<int>(std::min<int64_t>(at_once, n_panels(*matrices[i]) - first)), worker);
    }
  });
}

}  // namespace

void linear(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
            std::span<const Projection> projections) {
  if (runs.empty() || projections.empty()) return;
  const Backend& b = backend_of(context);
  const Input in = {x, x_stride, projections[0].weight->n_cols, runs.back().end};
  std::vector<const Matrix*> matrices;
  for (const Projection& p : projections) matrices.push_back(p.weight);
  const Rows rows = prepare(b, context, in, matrices);
  Scratch& s = b.scratch(context);
  for_each_panels(context, matrices, panels_at_once(b, in), [&](size_t i, int64_t first, int n, int worker) {
    Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
    const int64_t panel_floats = in.n_tokens * kPanelRows;
    float* out = w.out.at_least<float>(n * panel_floats);
    multiply_panels(b, w, *matrices[i], 0, first, n, rows, out);
    for (int p = 0; p < n; ++p) finish_panel(b, projections[i], first + p, in.n_tokens, out + p * panel_floats);
  });
}

void linear_glu(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const Matrix& gate, const float* gate_bias, const Matrix& up, const float* up_bias, ops::Activation act,
                float* out, int64_t out_stride, const ops::Matrix*) {
  if (runs.empty()) return;
  const Backend& b = backend_of(context);
  const Input in = {x, x_stride, gate.n_cols, runs.back().end};
  const Matrix* both[] = {&gate, &up};
  const Rows rows = prepare(b, context, in, both);
  Scratch& s = b.scratch(context);
  const Matrix* split[] = {&gate};
  for_each_panels(context, split, panels_at_once(b, in), [&](size_t, int64_t first, int n, int worker) {
    Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
    const int64_t panel_floats = in.n_tokens * kPanelRows;
    float* gated = w.out.at_least<float>(2 * n * panel_floats);
    float* raised = gated + n * panel_floats;
    multiply_panels(b, w, gate, 0, first, n, rows, gated);
    multiply_panels(b, w, up, 0, first, n, rows, raised);
    for (int p = 0; p < n; ++p, gated += panel_floats, raised += panel_floats) {
      const int64_t row = (first + p) * kPanelRows, n_rows = std::min<int64_t>(kPanelRows, gate.n_rows - row);
      if (up_bias != nullptr) add_bias(up_bias + row, n_rows, in.n_tokens, raised);
      b.kernels.finish({.values = gated,
                        .n_tokens = in.n_tokens,
                        .n_rows = static_cast<int>(n_rows),
                        .bias = gate_bias != nullptr ? gate_bias + row : nullptr,
                        .activation = static_cast<int>(act),
                        .times = raised,
                        .out = out + row,
                        .out_stride = out_stride});
    }
  });
}

void embed(const ops::Context&, const Matrix& table, std::span<const int32_t> tokens, float scale, float* out) {
  const int64_t row_bytes = table.format->row_bytes(table.n_cols);
  for (const int32_t token : tokens) {
    table.format->decode(table.data + token * row_bytes, out, table.n_cols / table.format->block_weights);
    if (scale != 1.0f) {
      for (int64_t i = 0; i < table.n_cols; ++i) out[i] *= scale;
    }
    out += table.n_cols;
  }
}

}  // namespace halfbyte::cpu
