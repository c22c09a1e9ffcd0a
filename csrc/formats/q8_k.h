// Q8_K: 256 values in 292 bytes, 9.125 bits per value. w = d * q; bsums are sums of 16 codes. An activation format.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q8_K {
  static constexpr int kWeights = 256;
  uint8_t d[4];  // f32
  int8_t qs[256];
  uint8_t bsums[32];  // int16 x 16
  static void decode(const uint8_t* b, float* w) {
    float d;
    std::memcpy(&d, b, sizeof d);
    for (int e = 0; e < 256; ++e) w[e] = d * static_cast<float>(static_cast<int8_t>(b[4 + e]));
  }
};
static_assert(sizeof(Q8_K) == 292);

}  // namespace halfbyte::formats
