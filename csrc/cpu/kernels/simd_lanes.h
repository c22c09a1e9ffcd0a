// What AVX-512 and AVX2 have in common, once their lanes are down to eight.
// Included by simd_avx512.h and simd_avx2.h only.

struct TopTwo {
  float first, second;
};
// high and low hold the two largest of what has met in each lane so far.
inline TopTwo top_two_of_lanes(__m256 high, __m256 low) {
  const auto meet = [](__m128 high_a, __m128 low_a, __m128 high_b, __m128 low_b, __m128& low_out) {
    low_out = _mm_max_ps(_mm_max_ps(low_a, low_b), _mm_min_ps(high_a, high_b));
    return _mm_max_ps(high_a, high_b);
  };
  __m128 l, h = meet(_mm256_castps256_ps128(high), _mm256_castps256_ps128(low), _mm256_extractf128_ps(high, 1),
                     _mm256_extractf128_ps(low, 1), l);
  h = meet(h, l, _mm_movehl_ps(h, h), _mm_movehl_ps(l, l), l);
  h = meet(h, l, _mm_shuffle_ps(h, h, 1), _mm_shuffle_ps(l, l, 1), l);
  return {_mm_cvtss_f32(h), _mm_cvtss_f32(l)};
}
// The sums of x and of y, one after the other.
inline void store_sums(int32_t* p, __m256i x, __m256i y) {
  const __m256i pairs = _mm256_hadd_epi32(x, y), fours = _mm256_hadd_epi32(pairs, pairs);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                   _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1)));
}
