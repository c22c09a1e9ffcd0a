// Q5_K: 256 weights in 176 bytes, 5.5 bits per weight. w = d * sc * q - dmin * mn, sc and mn of 6 bits per 32 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"
#include "formats/q4_k.h"

namespace halfbyte::formats {

struct Q5_K {
  static constexpr int kWeights = 256;
  uint8_t d[2], dmin[2];  // f16
  uint8_t scales[12];     // as in Q4_K
  uint8_t qh[32];         // fifth bit of element e: bit e/32 of byte e%32
  uint8_t qs[128];        // low nibbles as in Q4_K
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int j = 0; j < 8; ++j) {
      const ScaleMin s = scale_min_k4(b + 4, j);
      const float scale = d * static_cast<float>(s.scale), minimum = dmin * static_cast<float>(s.minimum);
      const uint8_t* qs = b + 48 + 32 * (j / 2);
      for (int i = 0; i < 32; ++i) {
        const int q = (qs[i] >> 4 * (j % 2) & 15) | (b[16 + i] >> j & 1) << 4;
        w[32 * j + i] = scale * static_cast<float>(q) - minimum;
      }
    }
  }
  // sc, mn: (8) of 0..63; q: codes 0..31.
  static void pack(float d, float dmin, const uint8_t* sc, const uint8_t* mn, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    store_f16(b + 2, dmin);
    pack_scale_min_k4(sc, mn, b + 4);
    std::memset(b + 16, 0, 32);
    for (int e = 0; e < 256; ++e) b[16 + e % 32] = static_cast<uint8_t>(b[16 + e % 32] | (q[e] >> 4) << e / 32);
    for (int half = 0; half < 4; ++half) {
      for (int i = 0; i < 32; ++i)
        b[48 + 32 * half + i] = static_cast<uint8_t>((q[64 * half + i] & 15) | (q[64 * half + 32 + i] & 15) << 4);
    }
  }
};
static_assert(sizeof(Q5_K) == 176);

}  // namespace halfbyte::formats
