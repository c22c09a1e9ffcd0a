// IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight. w = d * (0.5 + s) / 4 * grid * sign.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

struct IQ2_S {
  static constexpr int kWeights = 256;
  uint8_t d[2];       // f16
  uint8_t qs[32];     // low 8 bits of the grid index, one per 8 weights
  uint8_t signs[32];  // a sign byte per 8 weights
  uint8_t qh[8];      // two high bits of the indices
  uint8_t scales[8];  // a nibble per 16 weights
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int g = 0; g < 32; ++g) {
      const float scale = d * (0.5f + static_cast<float>(b[74 + g / 4] >> 4 * (g % 4 / 2) & 15)) * 0.25f;
      const int index = b[2 + g] | (b[66 + g / 4] >> 2 * (g % 4) & 3) << 8;
      signed_group8(kIq2sGrid[index], b[34 + g], scale, w + 8 * g);
    }
  }
  // s: (16) of 0..15; index: (32) into kIq2sGrid; signs: (32).
  static void pack(float d, const uint8_t* s, const uint16_t* index, const uint8_t* signs, uint8_t* b) {
    store_f16(b, d);
    std::memset(b + 66, 0, 8);
    for (int g = 0; g < 32; ++g) {
      b[2 + g] = static_cast<uint8_t>(index[g]);
      b[34 + g] = signs[g];
      b[66 + g / 4] = static_cast<uint8_t>(b[66 + g / 4] | (index[g] >> 8) << 2 * (g % 4));
    }
    for (int k = 0; k < 8; ++k) b[74 + k] = static_cast<uint8_t>(s[2 * k] | s[2 * k + 1] << 4);
  }
};
static_assert(sizeof(IQ2_S) == 82);

}  // namespace halfbyte::formats
