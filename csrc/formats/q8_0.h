// Q8_0: 32 weights in 34 bytes, 8.5 bits per weight. w = d * q.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q8_0 {
  static constexpr int kWeights = 32;
  uint8_t d[2];  // f16
  int8_t qs[32];
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b);
    for (int e = 0; e < 32; ++e) w[e] = static_cast<float>(static_cast<int8_t>(b[2 + e])) * d;
  }
  static void encode(const float* w, uint8_t* b) {
    const float d = std::fabs(signed_extreme(w, 32)) / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    store_f16(b, d);
    for (int e = 0; e < 32; ++e) b[2 + e] = static_cast<uint8_t>(static_cast<int>(std::round(w[e] * inverse)));
  }
  static void pack(float d, const int8_t* q, uint8_t* b) {
    store_f16(b, d);
    std::memcpy(b + 2, q, 32);
  }
};
static_assert(sizeof(Q8_0) == 34);

}  // namespace halfbyte::formats
