// Q1_0: 128 weights in 18 bytes, 1.125 bits per weight. w = +d or -d.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q1_0 {
  static constexpr int kWeights = 128;
  uint8_t d[2];    // f16
  uint8_t qs[16];  // bit e%8 of byte e/8: set is +
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 128; ++e) w[e] = (b[2 + e / 8] >> e % 8 & 1) != 0 ? d : -d;
  }
};
static_assert(sizeof(Q1_0) == 18);

}  // namespace halfbyte::formats
