// IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight. w = d * (0.5 + s) / 4 * grid * sign.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/codebooks.h"

namespace halfbyte::formats {

struct IQ2_XS {
  static constexpr int kWeights = 256;
  uint8_t d[2];       // f16
  uint8_t qs[64];     // u16 per 8 weights: 9-bit grid index, 7-bit sign set
  uint8_t scales[8];  // a nibble per 16 weights
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int g = 0; g < 32; ++g) {
      const float scale = d * (0.5f + static_cast<float>(b[66 + g / 4] >> 4 * (g % 4 / 2) & 15)) * 0.25f;
      const uint16_t v = load_u16(b + 2 + 2 * g);
      signed_group8(kIq2xsGrid[v & 511], expand_sign7(v >> 9), scale, w + 8 * g);
    }
  }
  // s: (16) of 0..15; index: (32) into kIq2xsGrid; signs: (32), each with an even number of bits set.
  static void pack(float d, const uint8_t* s, const uint16_t* index, const uint8_t* signs, uint8_t* b) {
    store_f16(b, d);
    for (int g = 0; g < 32; ++g) {
      const auto v = static_cast<uint16_t>(index[g] | (signs[g] & 127) << 9);
      std::memcpy(b + 2 + 2 * g, &v, sizeof v);
    }
    for (int k = 0; k < 8; ++k) b[66 + k] = static_cast<uint8_t>(s[2 * k] | s[2 * k + 1] << 4);
  }
};
static_assert(sizeof(IQ2_XS) == 74);

}  // namespace halfbyte::formats
