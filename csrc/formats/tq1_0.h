// TQ1_0: 256 ternary weights in 54 bytes, 1.6875 bits per weight. w = d * (t - 1), five trits a byte.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct TQ1_0 {
  static constexpr int kWeights = 256;
  uint8_t qs[48];  // trits 0..239
  uint8_t qh[4];   // trits 240..255, four a byte
  uint8_t d[2];    // f16
  // Digit n of a byte whose value is round(trits / 243 * 256).
  static int trit(uint8_t byte, int n) {
    static constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
    const uint8_t shifted = static_cast<uint8_t>(byte * kPowers[n]);
    return (shifted * 3 >> 8) - 1;
  }
  // Weight e's t - 1.
  static int trit_at(const uint8_t* b, int e) {
    return e < 160   ? trit(b[e % 32], e / 32)
           : e < 240 ? trit(b[32 + (e - 160) % 16], (e - 160) / 16)
                     : trit(b[48 + (e - 240) % 4], (e - 240) / 4);
  }
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 52);
    for (int e = 0; e < 256; ++e) w[e] = d * static_cast<float>(trit_at(b, e));
  }
  // q: trits 0..2.
  static void pack(float d, const uint8_t* q, uint8_t* b) {
    // A byte holds trits / 3^n as a binary fraction, rounded up, so that trit() reads its digits by multiplying.
    const auto byte_of = [](int digits) { return static_cast<uint8_t>((digits * 256 + 242) / 243); };
    for (int i = 0; i < 32; ++i)
      b[i] = byte_of((((q[i] * 3 + q[32 + i]) * 3 + q[64 + i]) * 3 + q[96 + i]) * 3 + q[128 + i]);
    for (int i = 0; i < 16; ++i)
      b[32 + i] = byte_of((((q[160 + i] * 3 + q[176 + i]) * 3 + q[192 + i]) * 3 + q[208 + i]) * 3 + q[224 + i]);
    for (int i = 0; i < 4; ++i)
      b[48 + i] = byte_of((((q[240 + i] * 3 + q[244 + i]) * 3 + q[248 + i]) * 3 + q[252 + i]) * 3);
    store_f16(b + 52, d);
  }
};
static_assert(sizeof(TQ1_0) == 54);

}  // namespace halfbyte::formats
