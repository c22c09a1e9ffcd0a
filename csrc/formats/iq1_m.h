// IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight. w = d * (2 s + 1) * (grid + delta), delta = +-1/8.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/iq1_s.h"

namespace halfbyte::formats {

struct IQ1_M {
  static constexpr int kWeights = 256;
  uint8_t qs[32];     // low 8 bits of the grid index, one per 8 weights
  uint8_t qh[16];     // a nibble per 8 weights: 3-bit index top, sign of delta
  uint8_t scales[8];  // u16 x 4: four 3-bit s each; their top nibbles spell the f16 d
  static void decode(const uint8_t* b, float* w) {
    uint16_t s[4], bits = 0;
    for (int i = 0; i < 4; ++i) {
      s[i] = load_u16(b + 48 + 2 * i);
      bits = static_cast<uint16_t>(bits | (s[i] >> 12) << 4 * i);
    }
    const float d = f16_to_f32(bits);
    for (int g = 0; g < 32; ++g) {
      const int n = b[32 + g / 2] >> 4 * (g % 2) & 15, k = g / 4;
      const float scale = d * static_cast<float>(2 * (s[k / 2] >> (6 * (k % 2) + 3 * (g % 4 / 2)) & 7) + 1);
      const float delta = (n & 8) != 0 ? -kIq1Delta : kIq1Delta;
      const int8_t* grid = kIq1Grid[b[g] | (n & 7) << 8];
      for (int i = 0; i < 8; ++i) w[8 * g + i] = scale * (static_cast<float>(grid[i]) + delta);
    }
  }
};
static_assert(sizeof(IQ1_M) == 56);

}  // namespace halfbyte::formats
