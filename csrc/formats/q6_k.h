// Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight. w = d * sc * (q - 32), sc int8 per 16 weights.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct Q6_K {
  static constexpr int kWeights = 256;
  uint8_t ql[128];  // low nibbles
  uint8_t qh[64];   // two high bits
  int8_t scales[16];
  uint8_t d[2];  // f16
  static int code(const uint8_t* b, int e) {
    const int half = e / 128, group = e % 128 / 32, i = e % 32;
    return (b[64 * half + 32 * (group % 2) + i] >> 4 * (group / 2) & 15) | (b[128 + 32 * half + i] >> 2 * group & 3)
                                                                               << 4;
  }
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 208);
    for (int group = 0; group < 16; ++group) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + group]));
      for (int e = 16 * group; e < 16 * group + 16; ++e) w[e] = scale * static_cast<float>(code(b, e) - 32);
    }
  }
  // sc: (16); q: codes 0..63.
  static void pack(float d, const int8_t* sc, const uint8_t* q, uint8_t* b) {
    for (int half = 0; half < 2; ++half) {
      const uint8_t* from = q + 128 * half;
      for (int i = 0; i < 64; ++i) b[64 * half + i] = static_cast<uint8_t>((from[i] & 15) | (from[64 + i] & 15) << 4);
      for (int i = 0; i < 32; ++i) {
        b[128 + 32 * half + i] = static_cast<uint8_t>(from[i] >> 4 | from[32 + i] >> 4 << 2 | from[64 + i] >> 4 << 4 |
                                                      from[96 + i] >> 4 << 6);
      }
    }
    std::memcpy(b + 192, sc, 16);
    store_f16(b + 208, d);
  }
};
static_assert(sizeof(Q6_K) == 210);

}  // namespace halfbyte::formats
