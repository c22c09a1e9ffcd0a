// Q8_1: 32 values in 36 bytes, 9 bits per value. w = d * q; s = d * sum(q) serves dot products. An activation format.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q8_1 {
  static constexpr int kWeights = 32;
  uint8_t d[2], s[2];  // f16
  int8_t qs[32];
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 32; ++e) w[e] = static_cast<float>(static_cast<int8_t>(b[4 + e])) * d;
  }
};
static_assert(sizeof(Q8_1) == 36);

}  // namespace halfbyte::formats
