// Norms, activations, gated units, rope, adds, soft caps, mixed streams and plain dots. Sums run over 16 lanes in a
// fixed order. Included by level files only, inside their anonymous namespace.

// The last, partial vector of a row goes through a buffer of 16.
template <class Apply>
inline void for_each_vector(int64_t n, Apply&& apply) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) apply(i, 16);
  if (i < n) apply(i, static_cast<int>(n - i));
}
inline F16x load_some(const float* p, int n) {
  if (n == 16) return f_load(p);
  float buffer[16] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return f_load(buffer);
}
inline void store_some(float* p, F16x x, int n) {
  if (n == 16) return f_store(p, x);
  float buffer[16];
  f_store(buffer, x);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}

inline F16x f_sigmoid(F16x x) {
  return f_div(f_set(1.0f), f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x))));
}

// ops::Activation by number: 0 none, 1 silu, 2 gelu, 3 gelu_tanh, 4 gelu_quick, 5 relu, 6 relu_squared.
inline F16x f_activate(int kind, F16x x) {
  switch (kind) {
    case 1:
      return f_mul(x, f_sigmoid(x));
    case 2: {
      float lanes[16];
      f_store(lanes, x);
      for (float& lane : lanes) lane = 0.5f * lane * (1.0f + __builtin_erff(lane * 0.70710678118654752f));
      return f_load(lanes);
    }
    case 3: {
      const F16x inner =
          f_mul(f_mul(x, f_set(0.79788456080286536f)), f_fma(f_mul(x, x), f_set(0.044715f), f_set(1.0f)));
      return f_mul(x, f_sigmoid(f_add(inner, inner)));  // 0.5 (1 + tanh y) = sigmoid(2y)
    }
    case 4:
      return f_mul(x, f_sigmoid(f_mul(x, f_set(1.702f))));
    case 5:
      return f_max(x, f_zero());
    case 6: {
      const F16x r = f_max(x, f_zero());
      return f_mul(r, r);
    }
    default:
      return x;
  }
}

void glu(int kind, const float* gate, const float* up, float* out, int64_t n) {
  for_each_vector(n, [&](int64_t i, int m) {
    store_some(out + i, f_mul(f_activate(kind, load_some(gate + i, m)), load_some(up + i, m)), m);
  });
}

// A panel's dots become outputs: bias, activation, the other half of a gated unit, scale, and the write (or add).
void finish(const FinishTask& task) {
  const int n = task.n_rows;
  const F16x bias = task.bias != nullptr ? load_some(task.bias, n) : f_zero(), scale = f_set(task.scale);
  const float* values = task.values;
  float* out = task.out;
  for (int64_t t = 0; t < task.n_tokens; ++t, values += 16, out += task.out_stride) {
    F16x v = f_load(values);
    if (task.bias != nullptr) v = f_add(v, bias);
    v = f_activate(task.activation, v);
    if (task.times != nullptr) v = f_mul(v, f_load(task.times + 16 * t));
    v = f_mul(v, scale);
    if (task.accumulate) v = f_add(load_some(out, n), v);
    store_some(out, v, n);
  }
}

void add(float* x, const float* y, float scale, int64_t n) {
  const F16x s = f_set(scale);
  for_each_vector(n,
                  [&](int64_t i, int m) { store_some(x + i, f_fma(s, load_some(y + i, m), load_some(x + i, m)), m); });
}

void softcap(float* x, int64_t n, float cap) {
  const F16x c = f_set(cap), inverse = f_set(1.0f / cap);
  for_each_vector(
      n, [&](int64_t i, int m) { store_some(x + i, f_mul(c, f_tanh(f_mul(load_some(x + i, m), inverse))), m); });
}

float dot(const float* a, const float* b, int64_t n) {
  F16x sums[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int j = 0; j < 4; ++j) sums[j] = f_fma(f_load(a + i + 16 * j), f_load(b + i + 16 * j), sums[j]);
  }
  for (; i < n; i += 16) {
    const int m = n - i < 16 ? static_cast<int>(n - i) : 16;
    sums[0] = f_fma(load_some(a + i, m), load_some(b + i, m), sums[0]);
  }
  return f_sum(f_add(f_add(sums[0], sums[1]), f_add(sums[2], sums[3])));
}

inline float mean_of(const float* x, int64_t n) {
  F16x sum = f_zero();
  for_each_vector(n, [&](int64_t i, int m) { sum = f_add(sum, load_some(x + i, m)); });
  return f_sum(sum) / static_cast<float>(n);
}

// The mean square of what lies between x and `mean`.
inline float variance_of(const float* x, int64_t n, float mean) {
  const F16x shift = f_set(mean);
  F16x even = f_zero(), odd = f_zero();
  for_each_vector(n, [&](int64_t i, int m) {
    F16x v = f_sub(load_some(x + i, m), shift);
    if (m < 16) v = f_keep(v, f_zero(), 0, m - 1);
    if ((i & 16) == 0)
      even = f_fma(v, v, even);
    else
      odd = f_fma(v, v, odd);
  });
  return f_sum(f_add(even, odd)) / static_cast<float>(n);
}

void norm(bool layer, const float* x, float* out, int64_t dim, const float* weight, const float* bias, float eps) {
  const float mean = layer ? mean_of(x, dim) : 0.0f;
  const F16x shift = f_set(mean), scale = f_set(1.0f / __builtin_sqrtf(variance_of(x, dim, mean) + eps));
  for_each_vector(dim, [&](int64_t i, int m) {
    F16x v = f_mul(f_sub(load_some(x + i, m), shift), scale);
    if (weight != nullptr) v = f_mul(v, load_some(weight + i, m));
    if (bias != nullptr) v = f_add(v, load_some(bias + i, m));
    store_some(out + i, v, m);
  });
}

void cut(float* x, int64_t n, float deviations) {
  const float mean = mean_of(x, n);
  const F16x least = f_set(__builtin_fmaf(deviations, __builtin_sqrtf(variance_of(x, n, mean)), mean));
  for_each_vector(n,
                  [&](int64_t i, int m) { store_some(x + i, f_max(f_sub(load_some(x + i, m), least), f_zero()), m); });
}

// In place: a column's numbers are all read before any is written.
void mix(const float* weights, const float* in, int n_in, float* out, int n_out, bool accumulate, int64_t n) {
  for_each_vector(n, [&](int64_t i, int m) {
    F16x sums[kMostStreams];
    for (int s = 0; s < n_out; ++s) {
      sums[s] = accumulate ? load_some(out + s * n + i, m) : f_zero();
      for (int r = 0; r < n_in; ++r)
        sums[s] = f_fma(f_set(weights[s * n_in + r]), load_some(in + r * n + i, m), sums[s]);
    }
    for (int s = 0; s < n_out; ++s) store_some(out + s * n + i, sums[s], m);
  });
}

void rotate(bool adjacent, float* head, int rope_dim, const float* cosines, const float* sines) {
  const int half = rope_dim / 2;
  if (adjacent) {
    for (int i = 0; i < half; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i];
      head[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
    return;
  }
  for_each_vector(half, [&](int64_t i, int m) {
    const F16x a = load_some(head + i, m), b = load_some(head + half + i, m);
    const F16x c = load_some(cosines + i, m), s = load_some(sines + i, m);
    store_some(head + i, f_sub(f_mul(a, c), f_mul(b, s)), m);
    store_some(head + half + i, f_add(f_mul(a, s), f_mul(b, c)), m);
  });
}
