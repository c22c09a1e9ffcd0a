// Q4_K: 256 weights in 144 bytes, 4.5 bits per weight. w = d * sc * q - dmin * mn, sc and mn of 6 bits per 32 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

// The 12 bytes of Q4_K and Q5_K that hold eight 6-bit scales and eight 6-bit minimums.
struct ScaleMin {
  int scale, minimum;
};
inline ScaleMin scale_min_k4(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4};
}

inline void pack_scale_min_k4(const uint8_t* sc, const uint8_t* mn, uint8_t* s) {
  for (int j = 0; j < 4; ++j) {
    s[j] = static_cast<uint8_t>(sc[j] | sc[j + 4] >> 4 << 6);
    s[j + 4] = static_cast<uint8_t>(mn[j] | mn[j + 4] >> 4 << 6);
    s[j + 8] = static_cast<uint8_t>((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
  }
}

struct Q4_K {
  static constexpr int kWeights = 256;
  uint8_t d[2], dmin[2];  // f16
  uint8_t scales[12];
  uint8_t qs[128];  // 32 bytes hold 64 elements: low nibbles the first 32, high nibbles the next
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int j = 0; j < 8; ++j) {
      const ScaleMin s = scale_min_k4(b + 4, j);
      const float scale = d * static_cast<float>(s.scale), minimum = dmin * static_cast<float>(s.minimum);
      const uint8_t* qs = b + 16 + 32 * (j / 2);
      for (int i = 0; i < 32; ++i) w[32 * j + i] = scale * static_cast<float>(qs[i] >> 4 * (j % 2) & 15) - minimum;
    }
  }
  // sc, mn: (8) of 0..63; q: codes 0..15.
  static void pack(float d, float dmin, const uint8_t* sc, const uint8_t* mn, const uint8_t* q, uint8_t* b) {
    store_f16(b, d);
    store_f16(b + 2, dmin);
    pack_scale_min_k4(sc, mn, b + 4);
    for (int half = 0; half < 4; ++half) {
      for (int i = 0; i < 32; ++i)
        b[16 + 32 * half + i] = static_cast<uint8_t>(q[64 * half + i] | q[64 * half + 32 + i] << 4);
    }
  }
};
static_assert(sizeof(Q4_K) == 144);

}  // namespace halfbyte::formats
