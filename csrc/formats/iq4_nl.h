// IQ4_NL: 32 weights in 18 bytes, 4.5 bits per weight. w = d * kIq4Values[q].
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

// The non-linear 4-bit code of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct IQ4_NL {
  static constexpr int kWeights = 32;
  uint8_t d[2];    // f16
  uint8_t qs[16];  // nibbles as in Q4_0
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 32; ++e) w[e] = d * static_cast<float>(kIq4Values[nibble32(b + 2, e)]);
  }
  // q: indices into kIq4Values.
  static void pack(float d, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    pack_nibbles32(q, b + 2);
  }
};
static_assert(sizeof(IQ4_NL) == 18);

}  // namespace halfbyte::formats
