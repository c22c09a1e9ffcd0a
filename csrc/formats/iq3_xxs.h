// IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight. w = d * (0.5 + s) / 2 * grid * sign.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

struct IQ3_XXS {
  static constexpr int kWeights = 256;
  uint8_t d[2];    // f16
  uint8_t qs[64];  // a grid index per 4 weights
  uint8_t s[32];   // u32 per 32 weights: four 7-bit sign sets and a 4-bit scale
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int g = 0; g < 32; ++g) {
      const uint32_t s = load_u32(b + 66 + 4 * (g / 4));
      const float scale = d * (0.5f + static_cast<float>(s >> 28)) * 0.5f;
      const uint8_t signs = expand_sign7(s >> 7 * (g % 4) & 127);
      signed_group4(kIq3xxsGrid[b[2 + 2 * g]], signs, scale, w + 8 * g);
      signed_group4(kIq3xxsGrid[b[3 + 2 * g]], signs >> 4, scale, w + 8 * g + 4);
    }
  }
  // s: (8) of 0..15; index: (64) into kIq3xxsGrid; signs: (32), each with an even number of bits set.
  static void pack(float d, const uint8_t* s, const uint16_t* index, const uint8_t* signs, uint8_t* b) {
    store_f16(b, d);
    for (int g = 0; g < 64; ++g) b[2 + g] = static_cast<uint8_t>(index[g]);
    for (int k = 0; k < 8; ++k) {
      uint32_t tail = static_cast<uint32_t>(s[k]) << 28;
      for (int l = 0; l < 4; ++l) tail |= static_cast<uint32_t>(signs[4 * k + l] & 127) << 7 * l;
      std::memcpy(b + 66 + 4 * k, &tail, sizeof tail);
    }
  }
};
static_assert(sizeof(IQ3_XXS) == 98);

}  // namespace halfbyte::formats
