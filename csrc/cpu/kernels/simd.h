// The few vector words that kernels are written in: 16 lanes, one per panel row, whatever the level's registers.
// Included by level files only, inside their anonymous namespace: no standard library here.
#if defined(HALFBYTE_AVX512)

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
inline void i_store_i8(int8_t* p, I16x a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
inline int32_t i_sum(I16x a) {
  return _mm512_reduce_add_epi32(a);
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
// acc[row] += sum over 4 columns of w * x. w unsigned; `wide` says that it may exceed 127 and stands 128 too high,
// which the caller's starting value takes back.
template <bool wide>
inline I16x dot4(I16x acc, B64 w, Four x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}
// The starting value of an accumulator for codes that stand `offset` too high.
template <int offset, bool wide>
inline I16x dot_start(int32_t sum) {
  return _mm512_set1_epi32(-offset * sum);
}

#else  // AVX2, with or without AVX-VNNI

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
inline void i_store_i8(int8_t* p, I16x x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline int32_t i_sum(I16x x) {
  const __m256i b = _mm256_add_epi32(x.a, x.b);
  const __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  const __m128i d = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
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
template <bool wide>
inline I16x dot4(I16x acc, B64 w, Four v) {
  return {_mm256_dpbusd_avx_epi32(acc.a, w.a, v), _mm256_dpbusd_avx_epi32(acc.b, w.b, v)};
}
template <int offset, bool wide>
inline I16x dot_start(int32_t sum) {
  return i_set(-offset * sum);
}
#else
// maddubs saturates at 16 bits: codes up to 127 fit (2 * 127 * 127 < 32768); wide ones go in with their sign moved to
// x.
template <bool wide>
inline __m256i dot4_half(__m256i acc, __m256i w, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (wide) {
    w = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
    x = _mm256_sign_epi8(x, w);
    w = _mm256_abs_epi8(w);
  }
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
}
template <bool wide>
inline I16x dot4(I16x acc, B64 w, Four v) {
  return {dot4_half<wide>(acc.a, w.a, v), dot4_half<wide>(acc.b, w.b, v)};
}
template <int offset, bool wide>
inline I16x dot_start(int32_t sum) {
  return i_set(wide ? 0 : -offset * sum);
}
#endif
#endif

// e^x by range reduction to [-ln2/2, ln2/2] and a polynomial of degree 6: relative error below 2e-7.
inline F16x f_exp(F16x x) {
  x = f_max(f_min(x, f_set(88.0f)), f_set(-87.0f));
  const F16x n = f_round(f_mul(x, f_set(1.44269504f)));
  F16x r = f_fma(n, f_set(-0.693359375f), x);
  r = f_fma(n, f_set(2.12194440e-4f), r);
  F16x p = f_set(1.0f / 720.0f);
  p = f_fma(p, r, f_set(1.0f / 120.0f));
  p = f_fma(p, r, f_set(1.0f / 24.0f));
  p = f_fma(p, r, f_set(1.0f / 6.0f));
  p = f_fma(p, r, f_set(0.5f));
  p = f_fma(p, r, f_set(1.0f));
  p = f_fma(p, r, f_set(1.0f));
  return f_mul(p, f_pow2(i_from(n)));
}

// tanh(x) = 1 - 2 / (e^2x + 1)
inline F16x f_tanh(F16x x) {
  return f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(f_exp(f_add(x, x)), f_set(1.0f))));
}
