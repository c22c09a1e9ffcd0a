// Norms, rope, gated units, mixed streams and the like: on the caller's thread when small, split by rows when large.
#include <algorithm>
#include <cmath>

#include "cpu/backend.h"
#include "ops/kv_element.h"

namespace halfbyte::cpu {

namespace {

// Below this many floats a second thread costs more than it brings.
constexpr int64_t kSplitFloats = 1 << 15;

void by_rows(const ops::Context& context, int64_t n_rows, int64_t n_floats,
             FunctionRef<void(int64_t begin, int64_t end)> job) {
  if (n_floats < kSplitFloats) return job(0, n_rows);
  context.pool->parallel_for(n_rows, 1, [&](int64_t begin, int64_t end, int) { job(begin, end); });
}

const RopeCache& rope_cache(Scratch& s, const ops::RopeArgs& args, int64_t n_tokens, const int32_t* positions) {
  const auto is_same = [&](const RopeCache& c) {
    return c.inv_freq == args.inv_freq && c.rope_dim == args.rope_dim && c.magnitude == args.magnitude;
  };
  auto found = std::find_if(s.ropes.begin(), s.ropes.end(), is_same);
  if (found == s.ropes.end()) {
    s.ropes.push_back({args.inv_freq, args.rope_dim, args.magnitude, {}, {}, {}});
    found = s.ropes.end() - 1;
  }
  const bool known = static_cast<int64_t>(found->positions.size()) == n_tokens &&
                     std::equal(positions, positions + n_tokens, found->positions.begin());
  if (known) return *found;
  found->positions.assign(positions, positions + n_tokens);
  const int half = args.rope_dim / 2;
  found->cosines.resize(static_cast<size_t>(n_tokens * half));
  found->sines.resize(found->cosines.size());
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(positions[t]) * args.inv_freq[i];
      found->cosines[static_cast<size_t>(t * half + i)] = std::cos(angle) * args.magnitude;
      found->sines[static_cast<size_t>(t * half + i)] = std::sin(angle) * args.magnitude;
    }
  }
  return *found;
}

}  // namespace

void norm(const ops::Context& context, ops::NormKind kind, const float* x, int64_t x_stride, float* out,
          int64_t out_stride, int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps,
          const ops::Matrix*) {
  const Kernels& k = backend_of(context).kernels;
  by_rows(context, n_rows, n_rows * dim, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      k.norm(kind == ops::NormKind::layer, x + r * x_stride, out + r * out_stride, dim, weight, bias, eps);
  });
}

void rope(const ops::Context& context, const ops::RopeArgs& args, float* x, int64_t x_stride, int64_t n_tokens,
          int n_heads, int head_dim, const int32_t* positions) {
  if (args.kind == ops::RopeKind::none) return;
  const Backend& b = backend_of(context);
  const RopeCache& cache = rope_cache(b.scratch(context), args, n_tokens, positions);
  const int half = args.rope_dim / 2;
  by_rows(context, n_tokens, n_tokens * n_heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cosines = cache.cosines.data() + t * half;
      const float* sines = cache.sines.data() + t * half;
      for (int h = 0; h < n_heads; ++h) {
        b.kernels.rotate(args.kind == ops::RopeKind::adjacent, x + t * x_stride + static_cast<int64_t>(h) * head_dim,
                         args.rope_dim, cosines, sines);
      }
    }
  });
}

void store_kv(const ops::Context& context, const ops::KvLayout& layout, std::byte* kv, const float* k, int64_t k_stride,
              const float* v, int64_t v_stride, int64_t n_tokens, const int64_t* slots) {
  // Tokens of a call have slots of their own: workers write different bytes.
  by_rows(context, n_tokens, n_tokens * layout.n_kv_heads * layout.key_dim * 2, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (slots[t] < 0) continue;
      std::byte* block = kv + slots[t] / ops::kKvBlockTokens * layout.stride();
      const int position = static_cast<int>(slots[t] % ops::kKvBlockTokens);
      for (int h = 0; h < layout.n_kv_heads; ++h) {
        std::byte* head = block + h * layout.head_bytes();
        ops::store_key(layout, head, position, k + t * k_stride + static_cast<int64_t>(h) * layout.key_dim);
        ops::store_value(layout, head + layout.key_tile_bytes(), position,
                         v + t * v_stride + static_cast<int64_t>(h) * layout.value_dim);
      }
    }
  });
}

void glu(const ops::Context& context, ops::Activation act, const float* gate, int64_t gate_stride, const float* up,
         int64_t up_stride, float* out, int64_t out_stride, int64_t n_tokens, int64_t n) {
  const Kernels& k = backend_of(context).kernels;
  by_rows(context, n_tokens, n_tokens * n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      k.glu(static_cast<int>(act), gate + t * gate_stride, up + t * up_stride, out + t * out_stride, n);
  });
}

void add(const ops::Context& context, float* x, const float* y, float scale, int64_t n_tokens, int64_t n) {
  const Kernels& k = backend_of(context).kernels;
  by_rows(context, n_tokens, n_tokens * n,
          [&](int64_t begin, int64_t end) { k.add(x + begin * n, y + begin * n, scale, (end - begin) * n); });
}

static_assert(kMostStreams == ops::kMostStreams);

void mix(const ops::Context& context, const ops::Mix& m, int64_t n_tokens, int64_t n) {
  const Kernels& k = backend_of(context).kernels;
  by_rows(context, n_tokens, n_tokens * n * (m.n_in + m.n_out), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      k.mix(m.weights + t * m.weight_stride, m.in + t * m.in_stride, m.n_in, m.out + t * m.out_stride, m.n_out,
            m.accumulate, n);
  });
}

void match_size(const ops::Context& context, float* x, int64_t x_stride, const float* like, int64_t like_stride,
                int64_t n_tokens, int64_t n, float floor) {
  const Kernels& k = backend_of(context).kernels;
  const auto size = [&](const float* row) { return std::sqrt(k.dot(row, row, n) / static_cast<float>(n)); };
  by_rows(context, n_tokens, n_tokens * n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = x + t * x_stride;
      const float factor = size(like + t * like_stride) / std::max(size(row), floor);
      k.mix(&factor, row, 1, row, 1, false, n);
    }
  });
}

void cut(const ops::Context& context, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations) {
  const Kernels& k = backend_of(context).kernels;
  by_rows(context, n_tokens, n_tokens * n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) k.cut(x + t * x_stride, n, deviations);
  });
}

void softcap(const ops::Context& context, float* x, int64_t n, float cap) {
  const Kernels& k = backend_of(context).kernels;
  context.pool->parallel_for(n, 1 << 13,
                             [&](int64_t begin, int64_t end, int) { k.softcap(x + begin, end - begin, cap); });
}

}  // namespace halfbyte::cpu
