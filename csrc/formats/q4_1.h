// Q4_1: 32 weights in 20 bytes, 5 bits per weight. w = d * q + m.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q4_1 {
  static constexpr int kWeights = 32;
  uint8_t d[2], m[2];  // f16
  uint8_t qs[16];      // nibbles: elements 0..15 low, 16..31 high
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b), m = load_f16(b + 2);
    for (int e = 0; e < 32; ++e) w[e] = static_cast<float>(nibble32(b + 4, e)) * d + m;
  }
  static void encode(const float* w, uint8_t* b) {
    const Range range = range_of(w, 32);
    const float d = (range.high - range.low) / 15.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t q[32];
    for (int e = 0; e < 32; ++e)
      q[e] = static_cast<uint8_t>(std::clamp(static_cast<int>((w[e] - range.low) * inverse + 0.5f), 0, 15));
    pack(d, range.low, q, b);
  }
  // q: codes 0..15.
  static void pack(float d, float m, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    store_f16(b + 2, m);
    pack_nibbles32(q, b + 4);
  }
};
static_assert(sizeof(Q4_1) == 20);

}  // namespace halfbyte::formats
