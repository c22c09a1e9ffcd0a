// TQ2_0: 256 ternary weights in 66 bytes, 2.0625 bits per weight. w = d * (q - 1).
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct TQ2_0 {
  static constexpr int kWeights = 256;
  uint8_t qs[64];  // element e: bits 2(e%128/32) of byte 32(e/128) + e%32
  uint8_t d[2];    // f16
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 64);
    for (int e = 0; e < 256; ++e)
      w[e] = d * static_cast<float>((b[32 * (e / 128) + e % 32] >> 2 * (e % 128 / 32) & 3) - 1);
  }
  // q: trits 0..2.
  static void pack(float d, const uint8_t* q, uint8_t* b) {
    pack_pairs256(q, b);
    store_f16(b + 64, d);
  }
};
static_assert(sizeof(TQ2_0) == 66);

}  // namespace halfbyte::formats
