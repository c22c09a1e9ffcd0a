// IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight. w = d * (1 + 2 s) * grid * sign.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

struct IQ3_S {
  static constexpr int kWeights = 256;
  uint8_t d[2];       // f16
  uint8_t qs[64];     // low 8 bits of the grid index, one per 4 weights
  uint8_t qh[8];      // ninth bits
  uint8_t signs[32];  // a sign byte per 8 weights
  uint8_t scales[4];  // a nibble per 32 weights
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int g = 0; g < 64; ++g) {
      const int k = g / 8;
      const float scale = d * static_cast<float>(1 + 2 * (b[106 + k / 2] >> 4 * (k % 2) & 15));
      const int index = b[2 + g] | (b[66 + k] >> g % 8 & 1) << 8;
      signed_group4(kIq3sGrid[index], static_cast<uint8_t>(b[74 + g / 2] >> 4 * (g % 2)), scale, w + 4 * g);
    }
  }
  // s: (8) of 0..15; index: (64) into kIq3sGrid; signs: (32).
  static void pack(float d, const uint8_t* s, const uint16_t* index, const uint8_t* signs, uint8_t* b) {
    store_f16(b, d);
    std::memset(b + 66, 0, 8);
    for (int g = 0; g < 64; ++g) {
      b[2 + g] = static_cast<uint8_t>(index[g]);
      b[66 + g / 8] = static_cast<uint8_t>(b[66 + g / 8] | (index[g] >> 8) << g % 8);
    }
    std::memcpy(b + 74, signs, 32);
    for (int k = 0; k < 4; ++k) b[106 + k] = static_cast<uint8_t>(s[2 * k] | s[2 * k + 1] << 4);
  }
};
static_assert(sizeof(IQ3_S) == 110);

}  // namespace halfbyte::formats
