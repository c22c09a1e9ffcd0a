// The vector words of simd.h in AVX-512 registers.
// Included by simd.h only.

#include "cpu/kernels/simd_lanes.h"

using F16x = __m512;   // 16 f32
using I16x = __m512i;  // 16 i32
using B64 = __m512i;   // 64 bytes: 16 rows x 4 columns

inline F16x f_zero() {
  return _mm512_setzero_ps();
}
inline F16x f_set(float x) {
  return _mm512_set1_ps(x);
}
inline F16x f_load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void f_store(float* p, F16x x) {
  _mm512_storeu_ps(p, x);
}
inline F16x f_mul(F16x a, F16x b) {
  return _mm512_mul_ps(a, b);
}
inline F16x f_add(F16x a, F16x b) {
  return _mm512_add_ps(a, b);
}
inline F16x f_sub(F16x a, F16x b) {
  return _mm512_sub_ps(a, b);
}
inline F16x f_div(F16x a, F16x b) {
  return _mm512_div_ps(a, b);
}
inline F16x f_max(F16x a, F16x b) {
  return _mm512_max_ps(a, b);
}
inline F16x f_min(F16x a, F16x b) {
  return _mm512_min_ps(a, b);
}
inline F16x f_fma(F16x a, F16x b, F16x c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline F16x f_abs(F16x a) {
  return _mm512_abs_ps(a);
}
inline F16x f_round(F16x a) {
  return _mm512_roundscale_ps(a, 8);
}
inline F16x f_from(I16x a) {
  return _mm512_cvtepi32_ps(a);
}
inline I16x i_from(F16x a) {
  return _mm512_cvtps_epi32(a);
}
inline F16x f_load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline F16x f_load_bf16(const void* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
}
inline F16x f_load_u8(const void* p) {
  return f_from(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline F16x f_load_i8(const void* p) {
  return f_from(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline I16x i_load_u8(const void* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// 2^n for integer lanes in the exponent's range.
inline F16x f_pow2(I16x n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
inline F16x f_from_bits(I16x a) {
  return _mm512_castsi512_ps(a);
}
inline I16x i_set(int32_t x) {
  return _mm512_set1_epi32(x);
}
inline I16x i_add(I16x a, I16x b) {
  return _mm512_add_epi32(a, b);
}
template <int n>
inline I16x i_shl(I16x a) {
  return _mm512_slli_epi32(a, n);
}
template <int n>
inline I16x i_shr(I16x a) {
  return _mm512_srli_epi32(a, n);
}
template <int n>
inline I16x i_sar(I16x a) {
  return _mm512_srai_epi32(a, n);
}
// Lanes whose index is in [low, high] keep x, the others get y.
inline F16x f_keep(F16x x, F16x y, int low, int high) {
  const __mmask16 mask = static_cast<__mmask16>((0xffffu << low) & (0xffffu >> (15 - high)));
  return _mm512_mask_blend_ps(mask, y, x);
}
inline float f_sum(F16x a) {
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float f_highest(F16x a) {
  const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline TopTwo f_top_two(F16x x, F16x y) {
  const __m512 high = _mm512_max_ps(x, y), low = _mm512_min_ps(x, y);
  const __m256 high_a = _mm512_castps512_ps256(high), high_b = _mm512_extractf32x8_ps(high, 1);
  const __m256 low_a = _mm512_castps512_ps256(low), low_b = _mm512_extractf32x8_ps(low, 1);
  return top_two_of_lanes(_mm256_max_ps(high_a, high_b),
                          _mm256_max_ps(_mm256_max_ps(low_a, low_b), _mm256_min_ps(high_a, high_b)));
}
inline void i_store_i8(int8_t* p, I16x a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
inline void i_store_sums(int32_t* p, I16x x, I16x y) {
  store_sums(p, _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)),
             _mm256_add_epi32(_mm512_castsi512_si256(y), _mm512_extracti64x4_epi64(y, 1)));
}
inline int f_find(F16x x, F16x y, float value) {
  const __m512 v = _mm512_set1_ps(value);
  const uint32_t low = _mm512_cmp_ps_mask(x, v, _CMP_EQ_OQ), high = _mm512_cmp_ps_mask(y, v, _CMP_EQ_OQ);
  return __builtin_ctz(low | high << 16 | 1u << 31);
}

inline I16x i_load(const int32_t* p) {
  return _mm512_loadu_si512(p);
}

inline B64 b_load(const void* p) {
  return _mm512_loadu_si512(p);
}
inline void b_store(void* p, B64 a) {
  _mm512_storeu_si512(p, a);
}
inline B64 b_set(uint8_t x) {
  return _mm512_set1_epi8(static_cast<char>(x));
}
inline B64 b_and(B64 a, B64 b) {
  return _mm512_and_si512(a, b);
}
inline B64 b_sub(B64 a, B64 b) {
  return _mm512_sub_epi8(a, b);
}
inline B64 b_or(B64 a, B64 b) {
  return _mm512_or_si512(a, b);
}
template <int n>
inline B64 b_shl(B64 a) {
  return _mm512_slli_epi16(a, n);
}
template <int n>
inline B64 b_shr(B64 a) {
  return _mm512_srli_epi16(a, n);
}
inline B64 b_lookup(const uint8_t* table16, B64 index) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table16))), index);
}
// Four columns of a token for every row.
using Four = __m512i;
inline Four b_four(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}
// A sum of dots: it begins with dot_start, and takes them in runs of up to kRunUnits units, which a level may sum in
// narrower lanes. w is unsigned and at most max_code; if that exceeds 127, it stands 128 too high.
template <int max_code>
constexpr int kRunUnits = 8;
inline I16x run_start(I16x sum) {
  return sum;
}
// run[row] += sum over 4 columns of w * x
template <int max_code>
inline I16x dot4(I16x run, B64 w, Four x) {
  return _mm512_dpbusd_epi32(run, w, x);
}
inline I16x run_end(I16x, I16x run) {
  return run;
}
// The start of a sum for codes that stand `offset` too high, of columns whose tokens' codes add up to `sum`.
template <int offset, int max_code>
inline I16x dot_start(int32_t sum) {
  return _mm512_set1_epi32(-offset * sum);
}
