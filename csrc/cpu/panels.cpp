// Quantizes and arranges input rows once for all matrices of a call, and multiplies panels with them.
#include "cpu/panels.h"

#include <algorithm>

#include "cpu/pack.h"

namespace halfbyte::cpu {

namespace {

using ops::Matrix;

bool is_int_panel(const Matrix& m) {
  PanelKind kind;
  return m.layout == ops::Layout::panels && panel_kind(*m.format, kind) && static_cast<int>(kind) < kFirstFloatKind;
}

void quantize_rows(const Backend& b, const ops::Context& context, const Input& in) {
  Scratch& s = b.scratch(context);
  const int64_t n = in.n_tokens, n_cols = in.n_cols;
  int8_t* codes = s.codes.at_least<int8_t>(n * n_cols);
  float* scales = s.scales.at_least<float>(n * n_cols / 32);
  int32_t* sums = s.sums.at_least<int32_t>(n * n_cols / 16);
  Outlier* outliers = s.outliers.at_least<Outlier>(n * n_cols / 32);
  s.quantized.resize(static_cast<size_t>(n));
  const auto one = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      int8_t* q = codes + t * n_cols;
      float* d = scales + t * (n_cols / 32);
      int32_t* sum = sums + t * (n_cols / 16);
      Outlier* of_row = outliers + t * (n_cols / 32);
      const int32_t n_outliers = b.kernels.quantize(in.x + t * in.stride, n_cols, q, d, sum, of_row);
      s.quantized[static_cast<size_t>(t)] = {q, d, sum, of_row, n_outliers};
    }
  };
  if (n * n_cols < 1 << 15)
    one(0, n, 0);
  else
    context.pool->parallel_for(n, 1, one);
}

// Writes rows' outlier columns and their tokens, and moves the pointers past them. is_known is of every column: false
// before and after.
OutlierColumns share(const Rows& rows, int64_t n_cols, bool* is_known, int32_t*& columns, int32_t*& tokens) {
  OutlierColumns shared = {.columns = columns, .tokens = tokens};
  std::vector<int32_t> next(static_cast<size_t>(n_cols / 32 + 2));  // place of the next token with so many outliers
  for (int64_t t = 0; t < rows.n; ++t) {
    const QuantizedRow& row = rows.quantized[t];
    ++next[static_cast<size_t>(row.n_outliers) + 1];
    for (int32_t i = 0; i < row.n_outliers; ++i) {
      const int32_t column = row.outliers[i].column;
      if (!is_known[column]) is_known[column] = true, *columns++ = column;
    }
  }
  shared.n_columns = static_cast<int32_t>(columns - shared.columns);
  std::sort(columns - shared.n_columns, columns);
  for (int32_t i = 0; i < shared.n_columns; ++i) is_known[shared.columns[i]] = false;
  next[1] = 0;  // tokens with none have no place
  for (size_t n = 2; n < next.size(); ++n) next[n] += next[n - 1];
  for (int64_t t = 0; t < rows.n; ++t) {
    const int32_t n = rows.quantized[t].n_outliers;
    if (n > 0) tokens[next[static_cast<size_t>(n)]++] = static_cast<int32_t>(t), ++shared.n_tokens;
  }
  tokens += shared.n_tokens;
  return shared;
}

// Of all rows that are too many for the kernels that unpack nothing.
void share_outliers(const Backend& b, const ops::Context& context, int64_t n_cols, std::span<Rows> all) {
  const auto are_many = [&](const Rows& rows) { return rows.quantized != nullptr && rows.n > b.kernels.direct_tokens; };
  int64_t n_tokens = 0, n_columns = 0;
  for (const Rows& rows : all) {
    if (!are_many(rows)) continue;
    n_tokens += rows.n;
    n_columns += std::min(n_cols, rows.n * n_cols / 32);
  }
  if (n_tokens == 0) return;
  Scratch& s = b.scratch(context);
  auto* columns = s.outlier_columns.at_least<int32_t>(n_columns);
  auto* tokens = s.outlier_tokens.at_least<int32_t>(n_tokens);
  auto* is_known = s.known_columns.at_least<bool>(n_cols);
  std::fill_n(is_known, n_cols, false);
  for (Rows& rows : all) {
    if (are_many(rows)) rows.outliers = share(rows, n_cols, is_known, columns, tokens);
  }
}

}  // namespace

Rows quantize(const Backend& b, const ops::Context& context, const Input& in, std::span<const Matrix* const> matrices) {
  Scratch& s = b.scratch(context);
  const bool is_quantized =
      std::any_of(matrices.begin(), matrices.end(), [](const Matrix* m) { return is_int_panel(*m); });
  if (is_quantized) quantize_rows(b, context, in);
  s.row_pointers.resize(static_cast<size_t>(in.n_tokens));
  for (int64_t t = 0; t < in.n_tokens; ++t) s.row_pointers[static_cast<size_t>(t)] = in.x + t * in.stride;
  return {is_quantized ? s.quantized.data() : nullptr, s.row_pointers.data(), in.n_tokens};
}

void arrange(const Backend& b, const ops::Context& context, int64_t n_cols, std::span<Rows> all) {
  share_outliers(b, context, n_cols, all);
  const MatrixUnit& unit = b.kernels.unit;
  if (unit.arrange == nullptr) return;
  std::vector<int64_t> ends;  // of each one's pieces
  int64_t total = 0;
  for (const Rows& rows : all) {
    if (rows.quantized != nullptr && rows.n > b.kernels.direct_tokens) total += unit.count_pieces(rows.n, n_cols);
    ends.push_back(total);
  }
  if (total == 0) return;
  auto* pieces = b.scratch(context).pieces.at_least<TokenPiece>(total);
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t begin = i == 0 ? 0 : ends[i - 1];
    if (begin < ends[i]) all[i].pieces = pieces + begin;
  }
  context.pool->parallel_for(total, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const auto i = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), piece) - ends.begin());
      unit.arrange(all[i].quantized, all[i].n, n_cols, piece - (i == 0 ? 0 : ends[i - 1]), pieces + piece);
    }
  });
}

Rows prepare(const Backend& b, const ops::Context& context, const Input& in, std::span<const Matrix* const> matrices) {
  Rows rows = quantize(b, context, in, matrices);
  arrange(b, context, in.n_cols, std::span(&rows, 1));
  return rows;
}

void multiply_panels(const Backend& b, Scratch::Worker& worker, const Matrix& stack, int64_t matrix, int64_t first,
                     int n, const Rows& rows, float* out) {
  const int n_tokens = static_cast<int>(rows.n);
  const std::byte* data = stack.data + matrix * stack.matrix_bytes;
  PanelKind kind;
  if (stack.layout == ops::Layout::panels && panel_kind(*stack.format, kind)) {
    const auto* panel = reinterpret_cast<const uint8_t*>(data) + first * stack.panel_bytes;
    if (static_cast<int>(kind) < kFirstFloatKind) {
      uint8_t* workspace =
          n_tokens > b.kernels.direct_tokens ? worker.workspace.at_least<uint8_t>(b.kernels.workspace_bytes) : nullptr;
      const auto k = static_cast<size_t>(kind);
      if (rows.pieces != nullptr)
        b.kernels.unit.panels[k](panel, stack.panel_bytes, n, stack.n_cols, rows.pieces, n_tokens, workspace, out);
      else
        b.kernels.int_panel[k](panel, stack.panel_bytes, n, stack.n_cols, rows.quantized, n_tokens, workspace, out);
      float* columns =
          rows.outliers.n_columns > 0 ? worker.columns.at_least<float>(stack.n_cols * n * kPanelRows) : nullptr;
      return b.kernels.add_outliers[k](panel, stack.panel_bytes, n, rows.quantized, rows.outliers, n_tokens, columns,
                                       out);
    }
    for (int p = 0; p < n; ++p, panel += stack.panel_bytes, out += rows.n * kPanelRows)
      b.kernels.float_panel[static_cast<int>(kind)](panel, stack.n_cols, rows.floats, n_tokens, out);
    return;
  }
  float* row = worker.row.at_least<float>(stack.n_cols);
  const int64_t row_bytes = stack.format->row_bytes(stack.n_cols),
                end = std::min<int64_t>((first + n) * kPanelRows, stack.n_rows);
  for (int64_t r = first * kPanelRows; r < end; ++r) {
    stack.format->decode(data + r * row_bytes, row, stack.n_cols / stack.format->block_weights);
    float* to = out + (r / kPanelRows - first) * rows.n * kPanelRows + r % kPanelRows;
    for (int64_t t = 0; t < rows.n; ++t) to[t * kPanelRows] = b.kernels.dot(row, rows.floats[t], stack.n_cols);
  }
}

void add_bias(const float* bias, int64_t n_rows, int64_t n_tokens, float* values) {
  for (int64_t t = 0; t < n_tokens; ++t, values += kPanelRows) {
    for (int64_t r = 0; r < n_rows; ++r) values[r] += bias[r];
  }
}

}  // namespace halfbyte::cpu
