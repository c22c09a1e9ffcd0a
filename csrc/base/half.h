// Scalar conversions between f32 and the 16-bit floats. Bit exact, no instruction-set requirement.
#pragma once

#include <bit>
#include <cstdint>

namespace halfbyte {

// IEEE binary16 -> f32, exact (NaN payload kept). Both cases are computed and one is masked out: loops become vectors.
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = static_cast<uint32_t>(h & 0x7fff);
  const uint32_t rebias = magnitude >= 0x7c00 ? 224u << 23 : 112u << 23;  // exponent 31 (no finite number) becomes 255
  // A subnormal's mantissa, put below 0.5, has the right weight.
  const float subnormal = std::bit_cast<float>(0x3f000000u | magnitude) - 0.5f;
  const uint32_t is_subnormal = 0u - static_cast<uint32_t>(magnitude < 0x0400);
  const uint32_t bits =
      (std::bit_cast<uint32_t>(subnormal) & is_subnormal) | (((magnitude << 13) + rebias) & ~is_subnormal);
  return std::bit_cast<float>(sign | bits);
}

// f32 -> IEEE binary16, round to nearest even, overflow to infinity. All cases are computed, as above.
inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto either = [](bool condition, uint32_t a, uint32_t b) {
    const uint32_t mask = 0u - static_cast<uint32_t>(condition);
    return (a & mask) | (b & ~mask);
  };
  // Of a subnormal half, adding 0.5 aligns the mantissa, and the FPU rounds to even.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
  const uint32_t special = either(magnitude > 0x7f800000u, 0x7e00u | (magnitude >> 13 & 0x3ff), 0x7c00u);
  const uint32_t finite = either(magnitude < 0x38800000u, subnormal, normal);
  return static_cast<uint16_t>(bits >> 16 & 0x8000) |
         static_cast<uint16_t>(either(magnitude >= 0x477ff000u, special, finite));
}

inline float bf16_to_f32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// f32 -> bfloat16, round to nearest even, NaN made quiet.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace halfbyte
