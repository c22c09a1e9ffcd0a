// Sixteen floats side by side, as one 512-bit, two 256-bit or four 128-bit vectors. Encoders are written once over a
// lane type and give the same bits with each: every operation is elementwise, and nothing is fused or reordered.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/half.h"

namespace halfbyte::quantize {

inline constexpr int kLanes = 16;

using Float4 = float __attribute__((vector_size(16)));
using Float8 = float __attribute__((vector_size(32)));
using Float16 = float __attribute__((vector_size(64)));

// Two narrower vectors that stand for a wider one.
template <class V>
struct Pair {
  V lo, hi;
};

using Lanes128 = Pair<Pair<Float4>>;
using Lanes256 = Pair<Float8>;
using Lanes512 = Float16;

#define HALFBYTE_PAIR_OPERATOR(op)                                   \
  template <class V>                                                 \
  inline auto operator op(const Pair<V>& a, const Pair<V>& b) {      \
    return Pair<decltype(a.lo op b.lo)>{a.lo op b.lo, a.hi op b.hi}; \
  }                                                                  \
  template <class V>                                                 \
  inline auto operator op(const Pair<V>& a, float b) {               \
    return Pair<decltype(a.lo op b)>{a.lo op b, a.hi op b};          \
  }
HALFBYTE_PAIR_OPERATOR(+)
HALFBYTE_PAIR_OPERATOR(-)
HALFBYTE_PAIR_OPERATOR(*)
HALFBYTE_PAIR_OPERATOR(/)
HALFBYTE_PAIR_OPERATOR(<)
HALFBYTE_PAIR_OPERATOR(>)
#undef HALFBYTE_PAIR_OPERATOR

template <class V>
inline V& operator+=(V& a, const V& b)
  requires requires { a.lo; }
{
  a = a + b;
  return a;
}

// where ? a : b, lane by lane; `where` is the result of a comparison.
template <class M, class V>
inline V choose(const M& where, const V& a, const V& b) {
  return where ? a : b;
}
template <class M, class V>
inline Pair<V> choose(const Pair<M>& where, const Pair<V>& a, const Pair<V>& b) {
  return {choose(where.lo, a.lo, b.lo), choose(where.hi, a.hi, b.hi)};
}

template <class L>
inline L lanes_of(float value) {
  return L{} + value;
}

// The second operand where the first is not a number. Compilers may not make one instruction of a choice. (maskz: the
// plain forms warn of an uninitialized operand in some compilers.)
template <class L>
inline L smaller(const L& a, const L& b) {
  return choose(a < b, a, b);
}
template <class L>
inline L larger(const L& a, const L& b) {
  return choose(a > b, a, b);
}
#if defined(__x86_64__)
inline Float4 smaller(const Float4& a, const Float4& b) {
  return _mm_min_ps(a, b);
}
inline Float4 larger(const Float4& a, const Float4& b) {
  return _mm_max_ps(a, b);
}
[[gnu::target("avx")]] inline Float8 smaller(const Float8& a, const Float8& b) {
  return _mm256_min_ps(a, b);
}
[[gnu::target("avx")]] inline Float8 larger(const Float8& a, const Float8& b) {
  return _mm256_max_ps(a, b);
}
[[gnu::target("avx512f")]] inline Float16 smaller(const Float16& a, const Float16& b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
[[gnu::target("avx512f")]] inline Float16 larger(const Float16& a, const Float16& b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
#endif
template <class V>
inline Pair<V> smaller(const Pair<V>& a, const Pair<V>& b) {
  return {smaller(a.lo, b.lo), smaller(a.hi, b.hi)};
}
template <class V>
inline Pair<V> larger(const Pair<V>& a, const Pair<V>& b) {
  return {larger(a.lo, b.lo), larger(a.hi, b.hi)};
}
template <class L>
inline L clamped(const L& a, float low, float high) {
  return larger(smaller(a, lanes_of<L>(high)), lanes_of<L>(low));
}
template <class V>
inline V magnitude(const V& a) {
  using Bits = decltype(a < a);
  return std::bit_cast<V>(std::bit_cast<Bits>(a) & 0x7fffffff);
}
template <class V>
inline Pair<V> magnitude(const Pair<V>& a) {
  return {magnitude(a.lo), magnitude(a.hi)};
}

// Nearest whole number, ties to even, for |a| < 2^22.
template <class L>
inline L rounded(const L& a) {
  return (a + 12582912.0f) - 12582912.0f;
}

// a / b, and 0 where b is 0.
template <class L>
inline L ratio(const L& a, const L& b) {
  const auto usable = magnitude(b) > 0.0f;
  return choose(usable, a / choose(usable, b, lanes_of<L>(1.0f)), L{});
}

template <class L>
inline L load(const float* from) {
  L out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
template <class L>
inline void store(float* to, const L& value) {
  std::memcpy(to, &value, sizeof value);
}

// Each lane, finite, as the nearest f16.
template <class V>
inline V through_f16(const V& value) {
  float lane[sizeof value / sizeof(float)];
  store(lane, value);
  for (float& each : lane) each = f16_to_f32(f32_to_f16(each));
  return load<V>(lane);
}
#if defined(__x86_64__)
[[gnu::target("avx,f16c")]] inline Float8 through_f16(const Float8& value) {
  return _mm256_cvtph_ps(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
[[gnu::target("avx512f")]] inline Float16 through_f16(const Float16& value) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
}
#endif
template <class V>
inline Pair<V> through_f16(const Pair<V>& value) {
  return {through_f16(value.lo), through_f16(value.hi)};
}

// The f16 number that a block will hold; too large ones become the largest f16.
template <class L>
inline L as_f16(const L& value) {
  return through_f16(clamped(value, -65504.0f, 65504.0f));
}

}  // namespace halfbyte::quantize
