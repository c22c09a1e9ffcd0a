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
  static void decode(const uint8_t* b, float* w) {
    const float d = load_f16(b + 52);
    for (int e = 0; e < 256; ++e) {
      const int t = e < 160   ? trit(b[e % 32], e / 32)
                    : e < 240 ? trit(b[32 + (e - 160) % 16], (e - 160) / 16)
                              : trit(b[48 + (e - 240) % 4], (e - 240) / 4);
      w[e] = d * static_cast<float>(t);
    }
  }
};
static_assert(sizeof(TQ1_0) == 54);

}  // namespace halfbyte::formats
