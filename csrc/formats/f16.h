// F16: IEEE binary16, 16 bits per weight.
#pragma once

#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct F16 {
  static constexpr int kWeights = 1;
  uint8_t value[2];
  static void decode(const uint8_t* b, float* w) { *w = load_f16(b); }
  static void encode(const float* w, uint8_t* b) { store_f16(b, *w); }
};
static_assert(sizeof(F16) == 2);

}  // namespace halfbyte::formats
