// Rows of several streams, rows as large as others, and gates of which most are 0.
#include <algorithm>
#include <array>
#include <cmath>

#include "ops/reference/reference.h"

namespace halfbyte::ops::reference {

void mix(const Context&, const Mix& m, int64_t n_tokens, int64_t n) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    const float* weights = m.weights + t * m.weight_stride;
    const float* in = m.in + t * m.in_stride;
    float* out = m.out + t * m.out_stride;
    for (int64_t i = 0; i < n; ++i) {
      std::array<float, kMostStreams> sums = {};
      for (int s = 0; s < m.n_out; ++s) {
        if (m.accumulate) sums[static_cast<size_t>(s)] = out[s * n + i];
        for (int r = 0; r < m.n_in; ++r) sums[static_cast<size_t>(s)] += weights[s * m.n_in + r] * in[r * n + i];
      }
      for (int s = 0; s < m.n_out; ++s) out[s * n + i] = sums[static_cast<size_t>(s)];
    }
  }
}

void match_size(const Context&, float* x, int64_t x_stride, const float* like, int64_t like_stride, int64_t n_tokens,
                int64_t n, float floor) {
  const auto size = [n](const float* row) {
    double squares = 0.0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(row[i]) * row[i];
    return static_cast<float>(std::sqrt(squares / static_cast<double>(n)));
  };
  for (int64_t t = 0; t < n_tokens; ++t) {
    float* row = x + t * x_stride;
    const float factor = size(like + t * like_stride) / std::max(size(row), floor);
    for (int64_t i = 0; i < n; ++i) row[i] *= factor;
  }
}

void cut(const Context&, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    float* row = x + t * x_stride;
    double mean = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; ++i) mean += row[i];
    mean /= static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) squares += (row[i] - mean) * (row[i] - mean);
    const auto least = static_cast<float>(mean + deviations * std::sqrt(squares / static_cast<double>(n)));
    for (int64_t i = 0; i < n; ++i) row[i] = std::max(0.0f, row[i] - least);
  }
}

}  // namespace halfbyte::ops::reference
