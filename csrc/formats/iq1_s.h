// IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight. w = d * (2 s + 1) * (grid + delta), delta = +-1/8.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

inline constexpr float kIq1Delta = 0.125f;

struct IQ1_S {
  static constexpr int kWeights = 256;
  uint8_t d[2];    // f16
  uint8_t qs[32];  // low 8 bits of the grid index, one per 8 weights
  uint8_t qh[16];  // u16 per 32 weights: four 3-bit index tops, 3-bit s, sign of delta
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int g = 0; g < 32; ++g) {
      const uint16_t q = load_u16(b + 34 + 2 * (g / 4));
      const float scale = d * static_cast<float>(2 * (q >> 12 & 7) + 1),
                  delta = (q & 0x8000) != 0 ? -kIq1Delta : kIq1Delta;
      const int8_t* grid = kIq1Grid[b[2 + g] | (q >> 3 * (g % 4) & 7) << 8];
      for (int i = 0; i < 8; ++i) w[8 * g + i] = scale * (static_cast<float>(grid[i]) + delta);
    }
  }
  // s: (8) of 0..7; negative: (8), whether delta is -1/8; index: (32) into kIq1Grid.
  static void pack(float d, const uint8_t* s, const uint8_t* negative, const uint16_t* index, uint8_t* b) {
    store_f16(b, d);
    for (int k = 0; k < 8; ++k) {
      auto q = static_cast<uint16_t>(s[k] << 12 | (negative[k] != 0 ? 0x8000 : 0));
      for (int l = 0; l < 4; ++l) {
        b[2 + 4 * k + l] = static_cast<uint8_t>(index[4 * k + l]);
        q = static_cast<uint16_t>(q | (index[4 * k + l] >> 8) << 3 * l);
      }
      std::memcpy(b + 34 + 2 * k, &q, sizeof q);
    }
  }
};
static_assert(sizeof(IQ1_S) == 50);

}  // namespace halfbyte::formats
