// What matrix products share: input rows in the forms that kernels want, and panels times rows.
#pragma once

#include <span>

#include "cpu/backend.h"

namespace halfbyte::cpu {

// Input rows of a call, row t at x + t * stride.
struct Input {
  const float* x;
  int64_t stride, n_cols, n_tokens;
};

// Rows as kernels take them: quantized (where some matrix has integer panels) and as floats.
struct Rows {
  const QuantizedRow* quantized;  // or nullptr
  const float* const* floats;
  int64_t n;
  const TokenPiece* pieces = nullptr;  // for the level's matrix unit; nullptr: it does not take them
  OutlierColumns outliers = {};        // where rows are many
};

inline int64_t n_panels(const ops::Matrix& m) {
  return (m.n_rows + kPanelRows - 1) / kPanelRows;
}

// The input's rows for products with these matrices; they lie in the context's scratch until the next call.
Rows quantize(const Backend& b, const ops::Context& context, const Input& in,
              std::span<const ops::Matrix* const> matrices);

// Arranges quantized rows that are many, in the context's scratch: their outliers, and for the matrix unit, where there
// is one, all of them.
void arrange(const Backend& b, const ops::Context& context, int64_t n_cols, std::span<Rows> all);

// Both, for rows that stay together.
Rows prepare(const Backend& b, const ops::Context& context, const Input& in,
             std::span<const ops::Matrix* const> matrices);

// Panels [first, first + n) of one matrix of a stack times every row; out[p * rows.n + t][16]. Rows of matrices without
// panels are decoded and dotted one by one.
void multiply_panels(const Backend& b, Scratch::Worker& worker, const ops::Matrix& stack, int64_t matrix, int64_t first,
                     int n, const Rows& rows, float* out);

// values (n_tokens, 16) += bias of the n_rows rows that exist.
void add_bias(const float* bias, int64_t n_rows, int64_t n_tokens, float* values);

}  // namespace halfbyte::cpu
