// The vector words of simd.h in pairs of AVX2 registers, with or without AVX-VNNI.
// Included by simd.h only.

#include "cpu/kernels/simd_lanes.h"

struct F16x {
  __m256 a, b;
};
struct I16x {
  __m256i a, b;
};
using B64 = I16x;

inline F16x f_zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline F16x f_set(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline F16x f_load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline void f_store(float* p, F16x x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F16x f_mul(F16x x, F16x y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F16x f_add(F16x x, F16x y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F16x f_sub(F16x x, F16x y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F16x f_div(F16x x, F16x y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F16x f_max(F16x x, F16x y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F16x f_min(F16x x, F16x y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F16x f_fma(F16x x, F16x y, F16x z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F16x f_abs(F16x x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F16x f_round(F16x x) {
  return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)};
}
inline F16x f_from(I16x x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
inline I16x i_from(F16x x) {
  return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
inline F16x f_load_f16(const void* p) {
  const __m128i* v = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(v)), _mm256_cvtph_ps(_mm_loadu_si128(v + 1))};
}
inline F16x f_load_bf16(const void* p) {
  const __m128i* v = static_cast<const __m128i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(v)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(v + 1)), 16))};
}
inline I16x i_load_u8(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
inline F16x f_load_u8(const void* p) {
  return f_from(i_load_u8(p));
}
inline F16x f_load_i8(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return f_from({_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))});
}
inline I16x i_set(int32_t x) {
  const __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
inline I16x i_add(I16x x, I16x y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
template <int n>
inline I16x i_shl(I16x x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
template <int n>
inline I16x i_shr(I16x x) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
template <int n>
inline I16x i_sar(I16x x) {
  return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
inline F16x f_from_bits(I16x x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
inline F16x f_pow2(I16x n) {
  return f_from_bits(i_shl<23>(i_add(n, i_set(127))));
}
inline F16x f_keep(F16x x, F16x y, int low, int high) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), eight = _mm256_set1_epi32(8);
  const __m256i from = _mm256_set1_epi32(low - 1), to = _mm256_set1_epi32(high + 1);
  const auto inside = [&](__m256i i) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(i, from), _mm256_cmpgt_epi32(to, i)));
  };
  return {_mm256_blendv_ps(y.a, x.a, inside(lanes)),
          _mm256_blendv_ps(y.b, x.b, inside(_mm256_add_epi32(lanes, eight)))};
}
inline float f_sum(F16x x) {
  const __m256 b = _mm256_add_ps(x.a, x.b);
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float f_highest(F16x x) {
  const __m256 b = _mm256_max_ps(x.a, x.b);
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline TopTwo f_top_two(F16x x, F16x y) {
  const F16x high = f_max(x, y), low = f_min(x, y);
  return top_two_of_lanes(_mm256_max_ps(high.a, high.b),
                          _mm256_max_ps(_mm256_max_ps(low.a, low.b), _mm256_min_ps(high.a, high.b)));
}
inline void i_store_i8(int8_t* p, I16x x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline void i_store_sums(int32_t* p, I16x x, I16x y) {
  store_sums(p, _mm256_add_epi32(x.a, x.b), _mm256_add_epi32(y.a, y.b));
}
inline int f_find(F16x x, F16x y, float value) {
  const __m256 v = _mm256_set1_ps(value);
  const auto equal = [&](__m256 eight) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(eight, v, _CMP_EQ_OQ)));
  };
  return __builtin_ctz(equal(x.a) | equal(x.b) << 8 | equal(y.a) << 16 | equal(y.b) << 24 | 1u << 31);
}

inline B64 b_load(const void* p) {
  const __m256i* v = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
inline void b_store(void* p, B64 x) {
  __m256i* v = static_cast<__m256i*>(p);
  _mm256_storeu_si256(v, x.a);
  _mm256_storeu_si256(v + 1, x.b);
}
inline B64 b_set(uint8_t x) {
  const __m256i v = _mm256_set1_epi8(static_cast<char>(x));
  return {v, v};
}
inline B64 b_and(B64 x, B64 y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
inline B64 b_or(B64 x, B64 y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
template <int n>
inline B64 b_shl(B64 x) {
  return {_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
}
template <int n>
inline B64 b_shr(B64 x) {
  return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
}
inline B64 b_lookup(const uint8_t* table16, B64 index) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table16)));
  return {_mm256_shuffle_epi8(table, index.a), _mm256_shuffle_epi8(table, index.b)};
}
using Four = __m256i;
inline Four b_four(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
#if defined(HALFBYTE_AVX_VNNI)
template <int max_code>
constexpr int kRunUnits = 8;
inline I16x run_start(I16x sum) {
  return sum;
}
template <int max_code>
inline I16x dot4(I16x run, B64 w, Four v) {
  return {_mm256_dpbusd_avx_epi32(run.a, w.a, v), _mm256_dpbusd_avx_epi32(run.b, w.b, v)};
}
inline I16x run_end(I16x, I16x run) {
  return run;
}
template <int offset, int max_code>
inline I16x dot_start(int32_t sum) {
  return i_set(-offset * sum);
}
#else
// maddubs gives sums of two products in 16 bits: as many are added there as cannot overflow, with x at most 127, before
// a run is widened. Codes above 127 would not fit once: they go in with their sign moved to x.
template <int max_code>
constexpr int kRunUnits = max_code <= 16   ? 8
                          : max_code <= 32 ? 4
                          : max_code <= 64 ? 2
                                           : 1;
inline I16x run_start(I16x) {
  return i_set(0);
}
template <int max_code>
inline __m256i dot4_half(__m256i run, __m256i w, __m256i x) {
  if constexpr (max_code > 127) {
    w = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
    x = _mm256_sign_epi8(x, w);
    w = _mm256_abs_epi8(w);
  }
  run = _mm256_add_epi16(run, _mm256_maddubs_epi16(w, x));
  asm("" : "+x"(run));  // or else GCC puts off all sums of a block, and keeps the products in memory
  return run;
}
template <int max_code>
inline I16x dot4(I16x run, B64 w, Four v) {
  return {dot4_half<max_code>(run.a, w.a, v), dot4_half<max_code>(run.b, w.b, v)};
}
inline I16x run_end(I16x sum, I16x run) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(run.a, ones)),
          _mm256_add_epi32(sum.b, _mm256_madd_epi16(run.b, ones))};
}
template <int offset, int max_code>
inline I16x dot_start(int32_t sum) {
  return i_set(max_code > 127 ? 0 : -offset * sum);
}
#endif
