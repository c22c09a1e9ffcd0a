// Q5_0: 32 weights in 22 bytes, 5.5 bits per weight. w = d * (q - 16).
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q5_0 {
  static constexpr int kWeights = 32;
  uint8_t d[2];    // f16
  uint8_t qh[4];   // fifth bit of element e at bit e
  uint8_t qs[16];  // low nibbles as in Q4_0
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    const uint32_t high = load_u32(b + 2);
    for (int e = 0; e < 32; ++e) {
      const int q = nibble32(b + 6, e) | static_cast<int>(high >> e & 1) << 4;
      w[e] = static_cast<float>(q - 16) * d;
    }
  }
  static void encode(const float* w, uint8_t* b) {
    const float d = signed_extreme(w, 32) / -16.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t q[32];
    for (int e = 0; e < 32; ++e)
      q[e] = static_cast<uint8_t>(std::clamp(static_cast<int>(w[e] * inverse + 16.5f), 0, 31));
    pack(d, q, b);
  }
  // q: codes 0..31.
  static void pack(float d, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    pack_fives32(q, b + 2, b + 6);
  }
};
static_assert(sizeof(Q5_0) == 22);

}  // namespace halfbyte::formats
