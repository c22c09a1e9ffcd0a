// Q4_0: 32 weights in 18 bytes, 4.5 bits per weight. w = d * (q - 8).
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q4_0 {
  static constexpr int kWeights = 32;
  uint8_t d[2];    // f16
  uint8_t qs[16];  // nibbles: elements 0..15 low, 16..31 high
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 32; ++e) w[e] = static_cast<float>(nibble32(b + 2, e) - 8) * d;
  }
  // The weight of largest magnitude maps to code 0 (that is -8), so d may be negative.
  static void encode(const float* w, uint8_t* b) {
    const float d = signed_extreme(w, 32) / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t q[32];
    for (int e = 0; e < 32; ++e)
      q[e] = static_cast<uint8_t>(std::clamp(static_cast<int>(w[e] * inverse + 8.5f), 0, 15));
    pack(d, q, b);
  }
  // q: codes 0..15.
  static void pack(float d, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    pack_nibbles32(q, b + 2);
  }
};
static_assert(sizeof(Q4_0) == 18);

}  // namespace halfbyte::formats
