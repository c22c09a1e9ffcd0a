// Codebooks of the IQ formats (generated from their published tables) and the sign helpers that use them.
#pragma once

#include <cstdint>

namespace halfbyte::formats {

// 8 magnitudes of {8, 25, 43} per entry.
extern const uint8_t kIq2xxsGrid[256][8];
// 8 magnitudes of {8, 25, 43} per entry.
extern const uint8_t kIq2xsGrid[512][8];
// 8 magnitudes of {8, 25, 43} per entry.
extern const uint8_t kIq2sGrid[1024][8];
// 4 magnitudes of {4, 12, ..., 62} per entry.
extern const uint8_t kIq3xxsGrid[256][4];
// 4 magnitudes of {1, 3, ..., 15} per entry.
extern const uint8_t kIq3sGrid[512][4];
// 8 values of {-1, 0, 1} per entry; IQ1_S and IQ1_M.
extern const int8_t kIq1Grid[2048][8];

// Seven stored sign bits; the eighth makes their number even.
inline uint8_t expand_sign7(uint32_t bits) {
  const uint32_t parity = static_cast<uint32_t>(__builtin_popcount(bits & 127) & 1);
  return static_cast<uint8_t>((bits & 127) | parity << 7);
}

// w[i] = scale * grid[i], negated where bit i of signs is set.
inline void signed_group8(const uint8_t* grid, uint8_t signs, float scale, float* w) {
  for (int i = 0; i < 8; ++i) w[i] = scale * static_cast<float>((signs >> i & 1) != 0 ? -grid[i] : grid[i]);
}
inline void signed_group4(const uint8_t* grid, uint8_t signs, float scale, float* w) {
  for (int i = 0; i < 4; ++i) w[i] = scale * static_cast<float>((signs >> i & 1) != 0 ? -grid[i] : grid[i]);
}

}  // namespace halfbyte::formats
