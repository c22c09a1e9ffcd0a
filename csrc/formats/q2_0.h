// Q2_0: 64 weights in 18 bytes, 2.25 bits per weight. w = d * (q - 1).
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q2_0 {
  static constexpr int kWeights = 64;
  uint8_t d[2];    // f16
  uint8_t qs[16];  // bits 2(e%4) of byte e/4
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 64; ++e) w[e] = d * static_cast<float>((b[2 + e / 4] >> 2 * (e % 4) & 3) - 1);
  }
};
static_assert(sizeof(Q2_0) == 18);

}  // namespace halfbyte::formats
