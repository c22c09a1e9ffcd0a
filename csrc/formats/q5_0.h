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
    store_f16(b, d);
    uint32_t high = 0;
    std::memset(b + 6, 0, 16);
    for (int e = 0; e < 32; ++e) {
      const int q = std::clamp(static_cast<int>(w[e] * inverse + 16.5f), 0, 31);
      b[6 + e % 16] = static_cast<uint8_t>(b[6 + e % 16] | (q & 15) << 4 * (e / 16));
      high |= static_cast<uint32_t>(q >> 4) << e;
    }
    std::memcpy(b + 2, &high, sizeof high);
  }
};
static_assert(sizeof(Q5_0) == 22);

}  // namespace halfbyte::formats
