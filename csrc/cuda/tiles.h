// A lane's part of a cell: loading it, making tensor-core operands of its codes, and its rows' scales. Every matrix
// kernel reads weights through here and nowhere else.
#pragma once

#include "cuda/matmul.h"
#include "cuda/platform.h"

namespace halfbyte::cuda {

__device__ inline uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Byte i of a word as a float, without a conversion: 0x4b0000bb is 2^23 + bb.
__device__ inline float byte_to_float(uint32_t word, int i) {
  return bits_to_float(0x4b000000u | (word >> 8 * i & 255u)) - 8388608.0f;
}
__device__ inline float signed_byte_to_float(uint32_t word, int i) {
  return bits_to_float(0x4b000000u | ((word >> 8 * i & 255u) ^ 128u)) - 8388736.0f;
}

// 2^(e - 128), as formats::e8m0_half.
__device__ inline float exponent_to_float(uint32_t e) {
  return bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

// Four nibbles (in the low halves of a word's bytes) to the int8 values that they name.
__device__ inline uint32_t look_up(const TableWords& table, uint32_t nibbles) {
#if defined(__CUDA_ARCH__)
  // prmt takes a selector of four nibbles of which it uses three bits; the fourth chooses between the table's halves.
  const uint32_t selector =
      (nibbles & 7u) | (nibbles >> 4 & 0x70u) | (nibbles >> 8 & 0x700u) | (nibbles >> 12 & 0x7000u);
  const uint32_t low = __byte_perm(table.words[0], table.words[1], selector);
  const uint32_t high = __byte_perm(table.words[2], table.words[3], selector);
  const uint32_t is_high = (nibbles >> 3 & 0x01010101u) * 255u;
  return (high & is_high) | (low & ~is_high);
#else
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t n = nibbles >> 8 * i & 15u;
    out |= (table.words[n / 4] >> 8 * (n % 4) & 255u) << 8 * i;
  }
  return out;
#endif
}

// kPairs tile pairs of a cell, from `first_pair` on: all of them where few tokens wait for memory, one where many
// tokens wait for arithmetic.
template <Kind kKind, int kPairs>
struct CellPart {
  static constexpr Shape kShape = shape_of(kKind);
  static constexpr bool kWhole = kPairs == kShape.pairs();
  // Bytes of a row's scales that belong to one pair (packed6: to all).
  static constexpr int kScaleBytes =
      kShape.scales == Scales::packed6 ? 12 : kPairs * kShape.row_scale_bytes() / kShape.pairs();
  static constexpr int kScaleWords = (kScaleBytes + 3) / 4;
  uint4 nibbles[kShape.nibbles ? kPairs : 1];
  uint4 bytes[kShape.bytes ? 2 * kPairs : 1];
  uint32_t two_bits[kShape.two_bits ? 2 * kPairs : 1];
  uint32_t one_bit[kShape.one_bit ? kPairs : 1];
  uint32_t scales[2][kScaleWords];  // of rows g and g + 8
  uint32_t behind[2];               // d and dmin, or the minimums, of the two rows
  int first_tile;

  __device__ void load(const uint8_t* cell, int first_pair, int lane) {
    first_tile = 2 * first_pair;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int p = first_pair + i;
      if constexpr (kShape.nibbles != 0)
        nibbles[i] = load_streaming(reinterpret_cast<const uint4*>(cell + 512 * p) + lane);
      if constexpr (kShape.bytes != 0) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          bytes[2 * i + j] = load_streaming(reinterpret_cast<const uint4*>(cell + 1024 * p + 512 * j) + lane);
      }
      if constexpr (kShape.two_bits != 0) {
        const uint2 v = *(reinterpret_cast<const uint2*>(cell + kShape.two_bits_at() + 256 * p) + lane);
        two_bits[2 * i] = v.x;
        two_bits[2 * i + 1] = v.y;
      }
      if constexpr (kShape.one_bit != 0)
        one_bit[i] = *(reinterpret_cast<const uint32_t*>(cell + kShape.one_bit_at() + 128 * p) + lane);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = lane / 4 + 8 * r;
      const uint8_t* from = cell + kShape.scales_at() + row * kShape.row_scale_bytes();
      if constexpr (kShape.scales != Scales::packed6) from += first_pair * (kShape.row_scale_bytes() / kShape.pairs());
      if constexpr (kScaleBytes < 4) {
        scales[r][0] = *reinterpret_cast<const uint16_t*>(from);
      } else {
#pragma unroll
        for (int i = 0; i < kScaleWords; ++i) scales[r][i] = reinterpret_cast<const uint32_t*>(from)[i];
      }
      if constexpr (kShape.has_super() && kShape.has_minimum) {
        behind[r] = reinterpret_cast<const uint32_t*>(cell + kShape.super_at())[row];
      } else if constexpr (kShape.has_super()) {
        behind[r] = reinterpret_cast<const uint16_t*>(cell + kShape.super_at())[row];
      } else if constexpr (kShape.has_minimum) {
        behind[r] = reinterpret_cast<const uint32_t*>(cell + kShape.minimums_at())[row];  // half32: two tiles
      }
    }
  }

  // The four words of the part's tile `tile`.
  __device__ void operand(int tile, const TableWords& table, uint32_t (&a)[4]) const {
    const int p = tile / 2, i = tile % 2;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      uint32_t codes = 0;
      int n_bits = 0;
      if constexpr (kShape.bytes != 0) codes = word_of(bytes[tile], r);
      if constexpr (kShape.nibbles != 0) {
        codes = word_of(nibbles[p], 2 * i + r % 2) >> 4 * (r / 2) & 0x0f0f0f0fu;
        n_bits = 4;
      }
      if constexpr (kShape.has_table) codes = look_up(table, codes);
      if constexpr (kShape.two_bits != 0) {
        codes |= (two_bits[tile] >> 2 * r & 0x03030303u) << n_bits;
        n_bits += 2;
      }
      if constexpr (kShape.one_bit != 0) codes |= (one_bit[p] >> (4 * i + r) & 0x01010101u) << n_bits;
      a[r] = codes;
    }
  }

  // Scale and minimum of row g (r = 0) or g + 8 (r = 1) for one tile; half: which 16 columns, for kinds with two
  // scales.
  __device__ float scale(int r, int tile, int half, float factor) const {
    if constexpr (kShape.scales == Scales::half32) {
      return half_to_float(static_cast<uint16_t>(scales[r][0] >> 16 * tile));
    } else if constexpr (kShape.scales == Scales::half16) {
      return half_to_float(static_cast<uint16_t>(scales[r][tile] >> 16 * half));
    } else if constexpr (kShape.scales == Scales::e8m0) {
      return exponent_to_float(scales[r][0] >> 8 * tile & 255u);
    } else {
      const float d = half_to_float(static_cast<uint16_t>(behind[r])) * (kShape.has_table ? factor : 1.0f);
      if constexpr (kShape.scales == Scales::int32)
        return d * signed_byte_to_float(scales[r][tile / 4], tile % 4);
      else if constexpr (kShape.scales == Scales::int16)
        return d * signed_byte_to_float(scales[r][tile / 2], 2 * (tile % 2) + half);
      else if constexpr (kShape.scales == Scales::nibbles16)
        return d * byte_to_float(scales[r][tile / 2] & 0x0f0f0f0fu, 2 * (tile % 2) + half);
      else
        return d * packed6(scales[r][0], scales[r][2], tile);
    }
  }
  __device__ float minimum(int r, int tile, int half) const {
    if constexpr (kShape.scales == Scales::half32) {
      return -half_to_float(static_cast<uint16_t>(behind[r] >> 16 * tile));
    } else {
      const float dmin = half_to_float(static_cast<uint16_t>(behind[r] >> 16));
      if constexpr (kShape.scales == Scales::nibbles16)
        return dmin * byte_to_float(scales[r][tile / 2] >> 4 & 0x0f0f0f0fu, 2 * (tile % 2) + half);
      else
        return dmin * packed6(scales[r][1], scales[r][2] >> 4, tile);
    }
  }

 private:
  // The 6-bit number of a tile: tiles 0..3 in the low bits of `low`, 4..7 in nibbles of `high` with two bits above in
  // `low`.
  __device__ float packed6(uint32_t low, uint32_t high, int tile) const {
    const int at = first_tile + tile;
    const uint32_t four = at < 4 ? low & 0x3f3f3f3fu : (high & 0x0f0f0f0fu) | (low >> 2 & 0x30303030u);
    return byte_to_float(four, at % 4);
  }
};

}  // namespace halfbyte::cuda
