// Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight. w = d * sc * (q - 32), sc int8 per 16 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q6_K {
  static constexpr int kWeights = 256;
  uint8_t ql[128];  // low nibbles
  uint8_t qh[64];   // two high bits
  int8_t scales[16];
  uint8_t d[2];  // f16
  static int code(const uint8_t* b, int e) {
    const int half = e / 128, group = e % 128 / 32, i = e % 32;
    return (b[64 * half + 32 * (group % 2) + i] >> 4 * (group / 2) & 15) | (b[128 + 32 * half + i] >> 2 * group & 3)
                                                                               << 4;
  }
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 208);
    for (int group = 0; group < 16; ++group) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + group]));
      for (int e = 16 * group; e < 16 * group + 16; ++e) w[e] = scale * static_cast<float>(code(b, e) - 32);
    }
  }
};
static_assert(sizeof(Q6_K) == 210);

}  // namespace halfbyte::formats
