// MXFP4: 32 weights in 17 bytes, 4.25 bits per weight. w = 2^(e-128) * kFp4Values[q] (OCP microscaling, E2M1).
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

// Twice the E2M1 values, so that they are whole.
inline constexpr int8_t kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e-128) for an E8M0 byte; 0 and 1 give f32 denormals.
inline float e8m0_half(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

struct MXFP4 {
  static constexpr int kWeights = 32;
  uint8_t e;       // E8M0 scale
  uint8_t qs[16];  // nibbles as in Q4_0
  static void decode(const uint8_t* b, float* w) {
    const float d = e8m0_half(b[0]);
    for (int e = 0; e < 32; ++e) w[e] = d * static_cast<float>(kFp4Values[nibble32(b + 1, e)]);
  }
  // q: indices into kFp4Values.
  static void pack(uint8_t scale, const uint8_t* q, uint8_t* b) {
    b[0] = scale;
    pack_nibbles32(q, b + 1);
  }
};
static_assert(sizeof(MXFP4) == 17);

}  // namespace halfbyte::formats
