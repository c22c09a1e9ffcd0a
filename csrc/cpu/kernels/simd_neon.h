// The vector words of simd.h in fours of NEON registers, with or without the dot product instructions.
// Included by simd.h only.

struct F16x {
  float32x4_t v[4];
};
struct I16x {
  int32x4_t v[4];
};
using B64 = I16x;
using Four = int8x16_t;

template <class Apply>
inline F16x f_each(Apply&& apply) {
  return {{apply(0), apply(1), apply(2), apply(3)}};
}
template <class Apply>
inline I16x i_each(Apply&& apply) {
  return {{apply(0), apply(1), apply(2), apply(3)}};
}

inline F16x f_set(float x) {
  return f_each([&](int) { return vdupq_n_f32(x); });
}
inline F16x f_zero() {
  return f_set(0.0f);
}
inline F16x f_load(const float* p) {
  return f_each([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void f_store(float* p, F16x x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F16x f_mul(F16x x, F16x y) {
  return f_each([&](int i) { return vmulq_f32(x.v[i], y.v[i]); });
}
inline F16x f_add(F16x x, F16x y) {
  return f_each([&](int i) { return vaddq_f32(x.v[i], y.v[i]); });
}
inline F16x f_sub(F16x x, F16x y) {
  return f_each([&](int i) { return vsubq_f32(x.v[i], y.v[i]); });
}
inline F16x f_div(F16x x, F16x y) {
  return f_each([&](int i) { return vdivq_f32(x.v[i], y.v[i]); });
}
// As on x86: y where the comparison fails, so where either is not a number.
inline F16x f_max(F16x x, F16x y) {
  return f_each([&](int i) { return vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline F16x f_min(F16x x, F16x y) {
  return f_each([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline F16x f_fma(F16x x, F16x y, F16x z) {
  return f_each([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
}
inline F16x f_abs(F16x x) {
  return f_each([&](int i) { return vabsq_f32(x.v[i]); });
}
inline F16x f_round(F16x x) {
  return f_each([&](int i) { return vrndnq_f32(x.v[i]); });
}
inline F16x f_from(I16x x) {
  return f_each([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline I16x i_from(F16x x) {
  return i_each([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
inline F16x f_load_f16(const void* p) {
  const uint16_t* halves = static_cast<const uint16_t*>(p);
  return f_each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + 4 * i))); });
}
inline F16x f_load_bf16(const void* p) {
  const uint16_t* halves = static_cast<const uint16_t*>(p);
  return f_each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(halves + 4 * i), 16)); });
}
inline I16x i_load_u8(const void* p) {
  const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(p));
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}
inline F16x f_load_u8(const void* p) {
  return f_from(i_load_u8(p));
}
inline F16x f_load_i8(const void* p) {
  const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return f_from({{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                  vmovl_s16(vget_high_s16(high))}});
}
inline I16x i_set(int32_t x) {
  return i_each([&](int) { return vdupq_n_s32(x); });
}
inline I16x i_add(I16x x, I16x y) {
  return i_each([&](int i) { return vaddq_s32(x.v[i], y.v[i]); });
}
template <int n>
inline I16x i_shl(I16x x) {
  return i_each([&](int i) { return vshlq_n_s32(x.v[i], n); });
}
template <int n>
inline I16x i_shr(I16x x) {
  return i_each([&](int i) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x.v[i]), n)); });
}
template <int n>
inline I16x i_sar(I16x x) {
  return i_each([&](int i) { return vshrq_n_s32(x.v[i], n); });
}
inline F16x f_from_bits(I16x x) {
  return f_each([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
// 2^n for integer lanes in the exponent's range.
inline F16x f_pow2(I16x n) {
  return f_from_bits(i_shl<23>(i_add(n, i_set(127))));
}
// Lanes whose index is in [low, high] keep x, the others get y.
inline F16x f_keep(F16x x, F16x y, int low, int high) {
  const int32_t first[4] = {0, 1, 2, 3};
  return f_each([&](int i) {
    const int32x4_t lanes = vaddq_s32(vld1q_s32(first), vdupq_n_s32(4 * i));
    const uint32x4_t inside = vandq_u32(vcgeq_s32(lanes, vdupq_n_s32(low)), vcleq_s32(lanes, vdupq_n_s32(high)));
    return vbslq_f32(inside, x.v[i], y.v[i]);
  });
}
inline float f_sum(F16x x) {
  const float32x4_t c = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t d = vadd_f32(vget_low_f32(c), vget_high_f32(c));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
inline float f_highest(F16x x) {
  float lanes[16], best;
  f_store(lanes, x);
  best = lanes[0];
  for (const float lane : lanes) best = lane > best ? lane : best;
  return best;
}
struct TopTwo {
  float first, second;
};
inline TopTwo f_top_two(F16x x, F16x y) {
  float high[16], low[16];
  f_store(high, f_max(x, y));
  f_store(low, f_min(x, y));
  TopTwo best = {high[0], low[0]};
  for (int i = 1; i < 16; ++i) {
    const float less = high[i] > best.first ? best.first : high[i];
    best.first = high[i] > best.first ? high[i] : best.first;
    best.second = less > best.second ? less : best.second;
    best.second = low[i] > best.second ? low[i] : best.second;
  }
  return best;
}
inline void i_store_i8(int8_t* p, I16x x) {
  const int16x8_t low = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  const int16x8_t high = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
inline void i_store_sums(int32_t* p, I16x x, I16x y) {
  p[0] = vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
  p[1] = vaddvq_s32(vaddq_s32(vaddq_s32(y.v[0], y.v[1]), vaddq_s32(y.v[2], y.v[3])));
}
inline int f_find(F16x x, F16x y, float value) {
  float lanes[32];
  f_store(lanes, x);
  f_store(lanes + 16, y);
  int i = 0;
  while (i < 31 && lanes[i] != value) ++i;
  return i;
}

inline B64 b_load(const void* p) {
  const uint8_t* bytes = static_cast<const uint8_t*>(p);
  return i_each([&](int i) { return vreinterpretq_s32_u8(vld1q_u8(bytes + 16 * i)); });
}
inline void b_store(void* p, B64 x) {
  uint8_t* bytes = static_cast<uint8_t*>(p);
  for (int i = 0; i < 4; ++i) vst1q_u8(bytes + 16 * i, vreinterpretq_u8_s32(x.v[i]));
}
inline B64 b_set(uint8_t x) {
  return i_each([&](int) { return vreinterpretq_s32_u8(vdupq_n_u8(x)); });
}
inline B64 b_and(B64 x, B64 y) {
  return i_each([&](int i) { return vandq_s32(x.v[i], y.v[i]); });
}
inline B64 b_or(B64 x, B64 y) {
  return i_each([&](int i) { return vorrq_s32(x.v[i], y.v[i]); });
}
template <int n>
inline B64 b_shl(B64 x) {
  return i_each([&](int i) {
    if constexpr (n == 0) return x.v[i];
    return vreinterpretq_s32_u16(vshlq_n_u16(vreinterpretq_u16_s32(x.v[i]), n));
  });
}
template <int n>
inline B64 b_shr(B64 x) {
  return i_each([&](int i) { return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(x.v[i]), n)); });
}
inline B64 b_lookup(const uint8_t* table16, B64 index) {
  const uint8x16_t table = vld1q_u8(table16);
  return i_each([&](int i) { return vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(index.v[i]))); });
}
inline Four b_four(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// A run is the sum itself. Codes above 127 stand 128 too high: flipping their top bit makes them signed, so that the
// starting value has nothing to take back.
template <int max_code>
constexpr int kRunUnits = 8;
inline I16x run_start(I16x sum) {
  return sum;
}
inline I16x run_end(I16x, I16x run) {
  return run;
}
template <int max_code>
inline I16x dot4(I16x acc, B64 w, Four x) {
  return i_each([&](int i) {
    int8x16_t codes = vreinterpretq_s8_s32(w.v[i]);
    if constexpr (max_code > 127) codes = veorq_s8(codes, vdupq_n_s8(-128));
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc.v[i], codes, x);
#else
    // Products of two columns fit 16 bits (128 * 127 * 2 < 32768); pairs of pairs are a row.
    const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
    const int16x8_t high = vmull_high_s8(codes, x);
    return vaddq_s32(acc.v[i], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  });
}
template <int offset, int max_code>
inline I16x dot_start(int32_t sum) {
  return i_set(max_code > 127 ? 0 : -offset * sum);
}
