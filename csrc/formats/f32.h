// F32: IEEE binary32, 32 bits per weight.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

struct F32 {
  static constexpr int kWeights = 1;
  uint8_t value[4];
  static void decode(const uint8_t* b, float* w) { std::memcpy(w, b, 4); }
  static void encode(const float* w, uint8_t* b) { std::memcpy(b, w, 4); }
};
static_assert(sizeof(F32) == 4);

}  // namespace halfbyte::formats
