// Rounding activations to int8: the one place that does, for the kernel of its own and for those that make the rows.
#pragma once

#include "cuda/operands.h"

namespace halfbyte::cuda {

// A warp rounds 32 columns of a token: lane l column l.
__device__ inline void round_tile(const Operands& to, int token, int tile, int lane, float value) {
  float largest = fabsf(value);
  for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  const int code = static_cast<int>(rintf(value * inverse));
  int sum = code;
  for (int mask = 8; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  const int other = shuffle_xor(sum, 16);
  const int64_t at = static_cast<int64_t>(token / 8) * to.n_tiles + tile;
  to.codes[(at * 32 + token % 8 * 4 + lane % 16 / 4) * 8 + lane / 16 * 4 + lane % 4] = static_cast<uint8_t>(code);
  if (lane == 0)
    to.numbers[at * 8 + token % 8] = {largest / 127.0f, {static_cast<int16_t>(sum), static_cast<int16_t>(other)}};
}

}  // namespace halfbyte::cuda
