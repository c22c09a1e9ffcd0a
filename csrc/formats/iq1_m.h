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
  // s: (16) of 0..7; negative: (32), whether delta is -1/8; index: (32) into kIq1Grid.
  static void pack(float d, const uint8_t* s, const uint8_t* negative, const uint16_t* index, uint8_t* b) {
    std::memset(b + 32, 0, 16);
    for (int g = 0; g < 32; ++g) {
      b[g] = static_cast<uint8_t>(index[g]);
      b[32 + g / 2] = static_cast<uint8_t>(b[32 + g / 2] | (index[g] >> 8 | (negative[g] != 0 ? 8 : 0)) << 4 * (g % 2));
    }
    const uint16_t bits = f32_to_f16(d);
    for (int i = 0; i < 4; ++i) {
      const auto word = static_cast<uint16_t>(s[4 * i] | s[4 * i + 1] << 3 | s[4 * i + 2] << 6 | s[4 * i + 3] << 9 |
                                              (bits >> 4 * i & 15) << 12);
      std::memcpy(b + 48 + 2 * i, &word, sizeof word);
    }
  }
};
static_assert(sizeof(IQ1_M) == 56);

}  // namespace halfbyte::formats
