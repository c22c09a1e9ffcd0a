// NVFP4: 64 weights in 36 bytes, 4.5 bits per weight. w = ue4m3(s)/2 * kFp4Values[q], one s per 16 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/mxfp4.h"

namespace halfbyte::formats {

// Unsigned E4M3; 0x7F is not a number and counts as 0.
inline float ue4m3(uint8_t x) {
  if (x == 0 || x == 0x7f) return 0.0f;
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-9f;
  return std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
}

struct NVFP4 {
  static constexpr int kWeights = 64;
  uint8_t scales[4];  // UE4M3
  uint8_t qs[32];     // 8 bytes per 16 weights: low nibbles the first 8
  static void decode(const uint8_t* b, float* w) {
    for (int s = 0; s < 4; ++s) {
      const float d = ue4m3(b[s]) * 0.5f;
      for (int i = 0; i < 16; ++i)
        w[16 * s + i] = d * static_cast<float>(kFp4Values[b[4 + 8 * s + i % 8] >> 4 * (i / 8) & 15]);
    }
  }
};
static_assert(sizeof(NVFP4) == 36);

}  // namespace halfbyte::formats
