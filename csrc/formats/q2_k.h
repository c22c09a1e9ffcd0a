// Q2_K: 256 weights in 84 bytes, 2.625 bits per weight. w = d * sc * q - dmin * mn, sc and mn per 16 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q2_K {
  static constexpr int kWeights = 256;
  uint8_t scales[16];     // sc in the low nibble, mn in the high one
  uint8_t qs[64];         // element e: bits 2(e%128/32) of byte 32(e/128) + e%32
  uint8_t d[2], dmin[2];  // f16
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 80), dmin = load_f16(b + 82);
    for (int group = 0; group < 16; ++group) {
      const float scale = d * static_cast<float>(b[group] & 15), minimum = dmin * static_cast<float>(b[group] >> 4);
      const uint8_t* qs = b + 16 + 32 * (group / 8) + 16 * (group % 2);
      const int shift = 2 * (group % 8 / 2);
      for (int i = 0; i < 16; ++i) w[16 * group + i] = scale * static_cast<float>(qs[i] >> shift & 3) - minimum;
    }
  }
  // sc, mn: (16) of 0..15; q: codes 0..3.
  static void pack(float d, float dmin, const uint8_t* sc, const uint8_t* mn, const uint8_t* q, uint8_t* b) {
    for (int group = 0; group < 16; ++group) b[group] = static_cast<uint8_t>(sc[group] | mn[group] << 4);
    pack_pairs256(q, b + 16);
    store_f16(b + 80, d);
    store_f16(b + 82, dmin);
  }
};
static_assert(sizeof(Q2_K) == 84);

}  // namespace halfbyte::formats
