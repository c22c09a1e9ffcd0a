// IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight. w = d * (0.5 + s) / 4 * grid * sign.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

struct IQ2_XXS {
  static constexpr int kWeights = 256;
  uint8_t d[2];    // f16
  uint8_t qs[64];  // per 32 weights: 4 grid indices, then u32 of four 7-bit sign sets and a 4-bit s
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int k = 0; k < 8; ++k) {
      const uint32_t s = load_u32(b + 2 + 8 * k + 4);
      const float scale = d * (0.5f + static_cast<float>(s >> 28)) * 0.25f;
      for (int l = 0; l < 4; ++l) {
        signed_group8(kIq2xxsGrid[b[2 + 8 * k + l]], expand_sign7(s >> 7 * l & 127), scale, w + 32 * k + 8 * l);
      }
    }
  }
  // s: (8) of 0..15; index: (32) into kIq2xxsGrid; signs: (32), each with an even number of bits set.
  static void pack(float d, const uint8_t* s, const uint16_t* index, const uint8_t* signs, uint8_t* b) {
    store_f16(b, d);
    for (int k = 0; k < 8; ++k) {
      uint32_t tail = static_cast<uint32_t>(s[k]) << 28;
      for (int l = 0; l < 4; ++l) {
        b[2 + 8 * k + l] = static_cast<uint8_t>(index[4 * k + l]);
        tail |= static_cast<uint32_t>(signs[4 * k + l] & 127) << 7 * l;
      }
      std::memcpy(b + 2 + 8 * k + 4, &tail, sizeof tail);
    }
  }
};
static_assert(sizeof(IQ2_XXS) == 66);

}  // namespace halfbyte::formats
