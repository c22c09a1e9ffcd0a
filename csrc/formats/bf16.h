// BF16: the upper half of an IEEE binary32, 16 bits per weight.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct BF16 {
  static constexpr int kWeights = 1;
  uint8_t value[2];
  static void decode(const uint8_t* b, float* w) { *w = bf16_to_f32(load_u16(b)); }
  static void encode(const float* w, uint8_t* b) {
    const uint16_t bits = f32_to_bf16(*w);
    std::memcpy(b, &bits, sizeof bits);
  }
};
static_assert(sizeof(BF16) == 2);

}  // namespace halfbyte::formats
