// IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight. w = d * (sc - 32) * kIq4Values[q], sc of 6 bits per 32
// weights.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/iq4_nl.h"

namespace halfbyte::formats {

struct IQ4_XS {
  static constexpr int kWeights = 256;
  uint8_t d[2];         // f16
  uint8_t scales_h[2];  // two high bits of each sc
  uint8_t scales_l[4];  // low nibbles
  uint8_t qs[128];      // eight blocks of 16 bytes, nibbles as in Q4_0
  static int scale(const uint8_t* b, int j) {
    return (b[4 + j / 2] >> 4 * (j % 2) & 15) | (load_u16(b + 2) >> 2 * j & 3) << 4;
  }
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int j = 0; j < 8; ++j) {
      const float scale_d = d * static_cast<float>(scale(b, j) - 32);
      for (int e = 0; e < 32; ++e)
        w[32 * j + e] = scale_d * static_cast<float>(kIq4Values[nibble32(b + 8 + 16 * j, e)]);
    }
  }
  // sc: (8) of 0..63; q: indices into kIq4Values.
  static void pack(float d, const uint8_t* sc, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    std::memset(b + 2, 0, 6);
    uint16_t high = 0;
    for (int j = 0; j < 8; ++j) {
      b[4 + j / 2] = static_cast<uint8_t>(b[4 + j / 2] | (sc[j] & 15) << 4 * (j % 2));
      high = static_cast<uint16_t>(high | (sc[j] >> 4) << 2 * j);
      pack_nibbles32(q + 32 * j, b + 8 + 16 * j);
    }
    std::memcpy(b + 2, &high, sizeof high);
  }
};
static_assert(sizeof(IQ4_XS) == 136);

}  // namespace halfbyte::formats
