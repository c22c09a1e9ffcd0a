// Norms, rope, gated units, residual adds and soft caps.
#include <algorithm>
#include <cmath>

#include "ops/activation.h"
#include "ops/reference/reference.h"

namespace halfbyte::ops::reference {

void norm(const Context&, NormKind kind, const float* x, int64_t x_stride, float* out, int64_t out_stride,
          int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps, const Matrix*) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const float* in = x + r * x_stride;
    float* to = out + r * out_stride;
    double mean = 0.0, squares = 0.0;
    if (kind == NormKind::layer) {
      for (int64_t i = 0; i < dim; ++i) mean += in[i];
      mean /= static_cast<double>(dim);
    }
    for (int64_t i = 0; i < dim; ++i) squares += (in[i] - mean) * (in[i] - mean);
    const float shift = static_cast<float>(mean);
    const float scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(dim) + eps));
    for (int64_t i = 0; i < dim; ++i) {
      to[i] = (in[i] - shift) * scale * (weight != nullptr ? weight[i] : 1.0f) + (bias != nullptr ? bias[i] : 0.0f);
    }
  }
}

void rope(const Context&, const RopeArgs& args, float* x, int64_t x_stride, int64_t n_tokens, int n_heads, int head_dim,
          const int32_t* positions) {
  if (args.kind == RopeKind::none) return;
  const int half = args.rope_dim / 2;
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int i = 0; i < half; ++i) {
      // The angle is rounded to f32 as the models were trained; its sine and cosine are exact.
      const float angle = static_cast<float>(positions[t]) * args.inv_freq[i];
      const float c = std::cos(angle) * args.magnitude, s = std::sin(angle) * args.magnitude;
      const int first = args.kind == RopeKind::adjacent ? 2 * i : i;
      const int second = args.kind == RopeKind::adjacent ? 2 * i + 1 : i + half;
      for (int h = 0; h < n_heads; ++h) {
        float* head = x + t * x_stride + static_cast<int64_t>(h) * head_dim;
        const float a = head[first], b = head[second];
        head[first] = a * c - b * s;
        head[second] = a * s + b * c;
      }
    }
  }
}

void glu(const Context&, Activation act, const float* gate, int64_t gate_stride, const float* up, int64_t up_stride,
         float* out, int64_t out_stride, int64_t n_tokens, int64_t n) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t i = 0; i < n; ++i)
      out[t * out_stride + i] = activate(act, gate[t * gate_stride + i]) * up[t * up_stride + i];
  }
}

void add(const Context&, float* x, const float* y, float scale, int64_t n_tokens, int64_t n) {
  for (int64_t i = 0; i < n_tokens * n; ++i) x[i] += scale * y[i];
}

void pick_rows(const Context&, const float* x, int64_t n, std::span<const int32_t> rows, float* out) {
  for (const int32_t row : rows) {
    std::copy_n(x + row * n, n, out);
    out += n;
  }
}

void softcap(const Context&, float* x, int64_t n, float cap) {
  for (int64_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

void likely(const Context&, const float* logits, int64_t n_rows, int64_t n_vocab, int n_likely, Likely* out) {
  std::vector<Likely> all;
  for (int64_t r = 0; r < n_rows; ++r) {
    all.clear();
    for (int64_t i = 0; i < n_vocab; ++i) {
      const float logit = logits[r * n_vocab + i];
      if (logit > -INFINITY) all.push_back({static_cast<int32_t>(i), logit});
    }
    // Stable: among equals the lower token stays first.
    std::stable_sort(all.begin(), all.end(), [](const Likely& a, const Likely& b) { return a.logit > b.logit; });
    all.resize(static_cast<size_t>(n_likely));
    out = std::copy(all.begin(), all.end(), out);
  }
}

}  // namespace halfbyte::ops::reference
