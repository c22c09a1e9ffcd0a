// Matrix products over raw matrices: decode a row, dot it with every token, sums in double.
#include <vector>

#include "base/error.h"
#include "ops/activation.h"
#include "ops/reference/reference.h"

namespace halfbyte::ops::reference {

namespace {

void decode_row(const Matrix& m, int64_t row, float* out) {
  m.format->decode(m.data + row * m.format->row_bytes(m.n_cols), out, m.n_cols / m.format->block_weights);
}

int64_t n_tokens_of(std::span<const RowRun> runs) {
  return runs.empty() ? 0 : runs.back().end;
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

Matrix pack(const MatrixSource& source, bool keep_raw, ThreadPool& pool) {
  return raw_matrix(source);
}

void embed(const Context&, const Matrix& table, std::span<const int32_t> tokens, float scale, float* out) {
  for (const int32_t token : tokens) {
    decode_row(table, token, out);
    for (int64_t i = 0; i < table.n_cols; ++i) out[i] *= scale;
    out += table.n_cols;
  }
}

void linear(const Context& context, const float* x, int64_t x_stride, std::span<const RowRun> runs,
            std::span<const Projection> projections) {
  const int64_t n_tokens = n_tokens_of(runs);
  for (const Projection& p : projections) {
    const Matrix& w = *p.weight;
    context.pool->parallel_for(w.n_rows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> row(static_cast<size_t>(w.n_cols));
      for (int64_t r = begin; r < end; ++r) {
        decode_row(w, r, row.data());
        for (int64_t t = 0; t < n_tokens; ++t) {
          const float sum =
              static_cast<float>(dot(row.data(), x + t * x_stride, w.n_cols)) + (p.bias != nullptr ? p.bias[r] : 0.0f);
          float& out = p.out[t * p.out_stride + r];
          const float value = p.scale * activate(p.activation, sum);
          out = p.accumulate ? out + value : value;
        }
      }
    });
  }
}

void linear_glu(const Context& context, const float* x, int64_t x_stride, std::span<const RowRun> runs,
                const Matrix& gate, const float* gate_bias, const Matrix& up, const float* up_bias, Activation act,
                float* out, int64_t out_stride, const Matrix*) {
  const int64_t n_tokens = n_tokens_of(runs);
  std::vector<float> gated(static_cast<size_t>(n_tokens * gate.n_rows));
  const Projection projections[] = {
      {.weight = &gate, .bias = gate_bias, .out = gated.data(), .out_stride = gate.n_rows, .activation = act},
      {.weight = &up, .bias = up_bias, .out = out, .out_stride = out_stride},
  };
  linear(context, x, x_stride, runs, projections);
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t r = 0; r < gate.n_rows; ++r)
      out[t * out_stride + r] *= gated[static_cast<size_t>(t * gate.n_rows + r)];
  }
}

}  // namespace halfbyte::ops::reference
