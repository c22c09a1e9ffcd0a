// Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight. w = d * (sc - 32) * (q - 4), sc of 6 bits per 16 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q3_K {
  static constexpr int kWeights = 256;
  uint8_t hmask[32];   // third bit of element e: bit e/32 of byte e%32
  uint8_t qs[64];      // low two bits, as in Q2_K
  uint8_t scales[12];  // low nibbles of sc 0..7 and 8..15, then their two high bits
  uint8_t d[2];        // f16
  static int scale(const uint8_t* s, int j) {
    return (s[j % 8] >> 4 * (j / 8) & 15) | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
  }
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 108);
    for (int group = 0; group < 16; ++group) {
      const float scale_d = d * static_cast<float>(scale(b + 96, group) - 32);
      const uint8_t* qs = b + 32 + 32 * (group / 8) + 16 * (group % 2);
      const uint8_t* high = b + 16 * (group % 2);
      for (int i = 0; i < 16; ++i) {
        const int q = (qs[i] >> 2 * (group % 8 / 2) & 3) | (high[i] >> (group / 2) & 1) << 2;
        w[16 * group + i] = scale_d * static_cast<float>(q - 4);
      }
    }
  }
  // sc: (16) of 0..63; q: codes 0..7.
  static void pack(float d, const uint8_t* sc, const uint8_t* q, uint8_t* b) {
    std::memset(b, 0, sizeof(Q3_K));
    uint8_t low[256];
    for (int e = 0; e < 256; ++e) {
      low[e] = q[e] & 3;
      b[e % 32] = static_cast<uint8_t>(b[e % 32] | (q[e] >> 2) << e / 32);
    }
    pack_pairs256(low, b + 32);
    uint8_t* s = b + 96;
    for (int j = 0; j < 16; ++j) {
      s[j % 8] = static_cast<uint8_t>(s[j % 8] | (sc[j] & 15) << 4 * (j / 8));
      s[8 + j % 4] = static_cast<uint8_t>(s[8 + j % 4] | (sc[j] >> 4) << 2 * (j / 4));
    }
    store_f16(b + 108, d);
  }
};
static_assert(sizeof(Q3_K) == 110);

}  // namespace halfbyte::formats
