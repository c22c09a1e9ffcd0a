// F64 and the plain integers: whole numbers and doubles as the machine stores them, one weight a block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/block.h"

namespace halfbyte::formats {

// Value = the number itself, rounded to f32.
template <class Number>
struct Plain {
  static constexpr int kWeights = 1;
  uint8_t value[sizeof(Number)];
  static void decode(const uint8_t* b, float* w) {
    Number number;
    std::memcpy(&number, b, sizeof number);
    *w = static_cast<float>(number);
  }
};
using F64 = Plain<double>;
using I8 = Plain<int8_t>;
using I16 = Plain<int16_t>;
using I32 = Plain<int32_t>;
using I64 = Plain<int64_t>;
static_assert(sizeof(F64) == 8 && sizeof(I8) == 1 && sizeof(I16) == 2 && sizeof(I32) == 4 && sizeof(I64) == 8);

}  // namespace halfbyte::formats
