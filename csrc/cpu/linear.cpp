// Matrix products: quantize the input once, split panels among workers, finish 16 rows at a time.
#include <algorithm>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/pack.h"

namespace halfbyte::cpu {

namespace {

using ops::Matrix;
using ops::Projection;

int64_t n_panels(const Matrix& m) {
  return (m.n_rows + kPanelRows - 1) / kPanelRows;
}

bool is_int_panel(const Matrix& m, PanelKind& kind) {
  return m.layout == ops::Layout::panels && panel_kind(*m.format, kind) && static_cast<int>(kind) < kFirstFloatKind;
}

// Input rows in the forms that kernels want.
struct Input {
  const float* x;
  int64_t stride, n_cols, n_tokens;
};

bool on_matrix_unit(const Backend& b, int64_t n_tokens) {
  return b.kernels.unit.arrange != nullptr && n_tokens > b.kernels.direct_tokens;
}

void quantize_rows(const Backend& b, const ops::Context& context, const Input& in) {
  Scratch& s = b.scratch(context);
  const int64_t n = in.n_tokens, n_cols = in.n_cols;
  int8_t* codes = s.codes.at_least<int8_t>(n * n_cols);
  float* scales = s.scales.at_least<float>(n * n_cols / 32);
  int32_t* sums = s.sums.at_least<int32_t>(n * n_cols / 16);
  s.quantized.resize(static_cast<size_t>(n));
  const auto one = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      int8_t* q = codes + t * n_cols;
      float* d = scales + t * (n_cols / 32);
      int32_t* sum = sums + t * (n_cols / 16);
      b.kernels.quantize(in.x + t * in.stride, n_cols, q, d, sum);
      s.quantized[static_cast<size_t>(t)] = {q, d, sum};
    }
  };
  if (n * n_cols < 1 << 15)
    one(0, n, 0);
  else
    context.pool->parallel_for(n, 1, one);
  if (!on_matrix_unit(b, n)) return;
  const int64_t n_pieces = b.kernels.unit.count_pieces(n, n_cols);
  auto* pieces = s.pieces.at_least<TokenPiece>(n_pieces);
  context.pool->parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) b.kernels.unit.arrange(s.quantized.data(), n, n_cols, i, pieces + i);
  });
}

void point_rows(Scratch& s, const Input& in) {
  s.row_pointers.resize(static_cast<size_t>(in.n_tokens));
  for (int64_t t = 0; t < in.n_tokens; ++t) s.row_pointers[static_cast<size_t>(t)] = in.x + t * in.stride;
}

// Panels [first, first + n) of m times every token; out[p * n_tokens + t][16]. Raw rows are decoded and dotted one by
// one.
void multiply_panels(const Backend& b, Scratch& s, Scratch::Worker& worker, const Matrix& m, int64_t first, int n,
                     const Input& in, float* out) {
  const int n_tokens = static_cast<int>(in.n_tokens);
  PanelKind kind;
  if (m.layout == ops::Layout::panels && panel_kind(*m.format, kind)) {
    const auto* panel = reinterpret_cast<const uint8_t*>(m.data) + first * m.panel_bytes;
    if (static_cast<int>(kind) < kFirstFloatKind) {
      uint8_t* workspace =
          n_tokens > b.kernels.direct_tokens ? worker.workspace.at_least<uint8_t>(b.kernels.workspace_bytes) : nullptr;
      if (on_matrix_unit(b, n_tokens))
        return b.kernels.unit.panels[static_cast<int>(kind)](
            panel, m.panel_bytes, n, m.n_cols, s.pieces.at_least<TokenPiece>(0), n_tokens, workspace, out);
      return b.kernels.int_panel[static_cast<int>(kind)](panel, m.panel_bytes, n, m.n_cols, s.quantized.data(),
                                                         n_tokens, workspace, out);
    }
    for (int p = 0; p < n; ++p, panel += m.panel_bytes, out += in.n_tokens * kPanelRows)
      b.kernels.float_panel[static_cast<int>(kind)](panel, m.n_cols, s.row_pointers.data(), n_tokens, out);
    return;
  }
  float* row = worker.row.at_least<float>(m.n_cols);
  const int64_t row_bytes = m.format->row_bytes(m.n_cols), end = std::min<int64_t>((first + n) * kPanelRows, m.n_rows);
  for (int64_t r = first * kPanelRows; r < end; ++r) {
    m.format->decode(m.data + r * row_bytes, row, m.n_cols / m.format->block_weights);
    float* to = out + (r / kPanelRows - first) * in.n_tokens * kPanelRows + r % kPanelRows;
    for (int64_t t = 0; t < in.n_tokens; ++t) to[t * kPanelRows] = b.kernels.dot(row, in.x + t * in.stride, m.n_cols);
  }
}

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

void add_bias(const float* bias, int64_t n_rows, int64_t n_tokens, float* values) {
  for (int64_t t = 0; t < n_tokens; ++t, values += kPanelRows) {
    for (int64_t r = 0; r < n_rows; ++r) values[r] += bias[r];
  }
}

void prepare(const Backend& b, const ops::Context& context, const Input& in, std::span<const Matrix* const> matrices) {
  PanelKind kind;
  if (std::any_of(matrices.begin(), matrices.end(), [&](const Matrix* m) { return is_int_panel(*m, kind); }))
    quantize_rows(b, context, in);
  point_rows(b.scratch(context), in);
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
  prepare(b, context, in, matrices);
  Scratch& s = b.scratch(context);
  for_each_panels(context, matrices, panels_at_once(b, in), [&](size_t i, int64_t first, int n, int worker) {
    Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
    const int64_t panel_floats = in.n_tokens * kPanelRows;
    float* out = w.out.at_least<float>(n * panel_floats);
    multiply_panels(b, s, w, *matrices[i], first, n, in, out);
    for (int p = 0; p < n; ++p) finish_panel(b, projections[i], first + p, in.n_tokens, out + p * panel_floats);
  });
}

void linear_glu(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const Matrix& gate, const float* gate_bias, const Matrix& up, const float* up_bias, ops::Activation act,
                float* out, int64_t out_stride) {
  if (runs.empty()) return;
  const Backend& b = backend_of(context);
  const Input in = {x, x_stride, gate.n_cols, runs.back().end};
  const Matrix* both[] = {&gate, &up};
  prepare(b, context, in, both);
  Scratch& s = b.scratch(context);
  const Matrix* split[] = {&gate};
  for_each_panels(context, split, panels_at_once(b, in), [&](size_t, int64_t first, int n, int worker) {
    Scratch::Worker& w = s.workers[static_cast<size_t>(worker)];
    const int64_t panel_floats = in.n_tokens * kPanelRows;
    float* gated = w.out.at_least<float>(2 * n * panel_floats);
    float* raised = gated + n * panel_floats;
    multiply_panels(b, s, w, gate, first, n, in, gated);
    multiply_panels(b, s, w, up, first, n, in, raised);
    for (int p = 0; p < n; ++p, gated += panel_floats, raised += panel_floats) {
      const int64_t row = (first + p) * kPanelRows, n_rows = std::min<int64_t>(kPanelRows, gate.n_rows - row);
      if (gate_bias != nullptr) add_bias(gate_bias + row, n_rows, in.n_tokens, gated);
      if (up_bias != nullptr) add_bias(up_bias + row, n_rows, in.n_tokens, raised);
      b.kernels.glu(static_cast<int>(act), gated, raised, gated, panel_floats);
      for (int64_t t = 0; t < in.n_tokens; ++t)
        std::memcpy(out + t * out_stride + row, gated + t * kPanelRows, static_cast<size_t>(n_rows) * sizeof(float));
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
