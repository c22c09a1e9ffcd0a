// Keys and values of one head out of KV blocks into shared memory as f16, whatever they are stored as.
//
// Every read of a block is 16 bytes a thread, neighbours side by side. f16 goes to shared memory without passing
// through registers; of the others a thread has as many reads on their way as there are blocks in a tile. Rows in
// shared memory are 16 bytes longer than what they hold, which puts eight consecutive ones into different banks.
#pragma once

#include "cuda/platform.h"
#include "ops/kv_layout.h"

namespace halfbyte::cuda {

struct KvView {
  const uint8_t* blocks;  // of the kv head: block b at blocks + b * block_bytes
  int64_t block_bytes;
  const int32_t* table;
  int key_dim, value_dim;
  int key_tile_bytes;
  ops::KvType k_type, v_type;
};

__device__ inline uint16_t bounded_half(float x) {
  return float_to_half(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

__device__ inline uint32_t bounded_halves(float low, float high) {
  return bounded_half(low) | static_cast<uint32_t>(bounded_half(high)) << 16;
}

__device__ inline uint32_t two_halves(float low, float high) {
  return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
}

// Where the blocks of kTokens positions from `first` on lie; nullptr: they begin at or behind `end`, or were freed.
template <int kTokens>
struct Tiles {
  static constexpr int kBlocks = kTokens / ops::kKvBlockTokens;
  const uint8_t* at[kBlocks];

  __device__ Tiles(const KvView& kv, int64_t first, int64_t end, int offset) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t position = first + b * ops::kKvBlockTokens;
      const int32_t block = position < end ? kv.table[position / ops::kKvBlockTokens] : -1;
      at[b] = block < 0 ? nullptr : kv.blocks + block * kv.block_bytes + offset;
    }
  }
};

// Sixteen bytes, or zeros where there are none.
__device__ inline uint4 sixteen_bytes(const uint8_t* p, int index) {
  return p != nullptr ? reinterpret_cast<const uint4*>(p)[index] : uint4{0, 0, 0, 0};
}

// The i-th eight of the numbers at `tile`, as f16.
__device__ inline uint4 eight_halves(ops::KvType type, const uint8_t* tile, int i) {
  if (type == ops::KvType::f16) return sixteen_bytes(tile, i);
  if (type == ops::KvType::bf16) {
    const uint4 v = sixteen_bytes(tile, i);
    const auto pair = [](uint32_t two) {
      return bounded_halves(bits_to_float(two << 16), bits_to_float(two & 0xffff0000u));
    };
    return {pair(v.x), pair(v.y), pair(v.z), pair(v.w)};
  }
  const uint4 a = sixteen_bytes(tile, 2 * i), b = sixteen_bytes(tile, 2 * i + 1);
  const auto pair = [](uint32_t low, uint32_t high) { return bounded_halves(bits_to_float(low), bits_to_float(high)); };
  return {pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w)};
}

__device__ inline float signed_byte(uint32_t word, int i) {
  return static_cast<float>(static_cast<int8_t>(word >> 8 * i));
}
// Nibble i: low ones of four bytes, then high ones.
__device__ inline float nibble_less_8(uint32_t word, int i) {
  return static_cast<float>(static_cast<int>(word >> (8 * (i % 4) + 4 * (i / 4)) & 15u) - 8);
}

// keys[d][t] (row length kTokens + 8) for d in 0..kDim, t in 0..kTokens: positions first + t below `end`; zero
// elsewhere, up to the end of a block. What is copied has arrived after wait_for_copies().
template <int kDim, int kTokens>
__device__ inline void load_keys(const KvView& kv, int64_t first, int64_t end, int thread, int n_threads,
                                 uint16_t* keys) {
  constexpr int kRow = kTokens + 8, kT = ops::kKvBlockTokens, kBlocks = Tiles<kTokens>::kBlocks;
  const Tiles<kTokens> tiles(kv, first, end, 0);
  const int dim = kv.key_dim;
  if (kv.k_type == ops::KvType::q8_0 || kv.k_type == ops::KvType::q4_0) {
    // Four positions of four dims (q8_0) or eight (q4_0) each.
    const bool is_q8 = kv.k_type == ops::KvType::q8_0;
    const int step = is_q8 ? 4 : 8, codes_at = dim;
    for (int p = thread; p < dim / step * 4; p += n_threads) {
      const int d = p / 4 * step, t = p % 4 * 4;
      uint4 codes[kBlocks];
      uint2 scales[kBlocks];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint8_t* tile = tiles.at[b];
        codes[b] = sixteen_bytes(tile != nullptr ? tile + codes_at : nullptr, p);
        scales[b] = tile != nullptr ? reinterpret_cast<const uint2*>(tile)[(d / 32 * kT + t) / 4] : uint2{0, 0};
      }
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const float s[4] = {
            half_to_float(static_cast<uint16_t>(scales[b].x)), half_to_float(static_cast<uint16_t>(scales[b].x >> 16)),
            half_to_float(static_cast<uint16_t>(scales[b].y)), half_to_float(static_cast<uint16_t>(scales[b].y >> 16))};
        const uint32_t words[4] = {codes[b].x, codes[b].y, codes[b].z, codes[b].w};
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (e >= step) break;
          float v[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) v[j] = s[j] * (is_q8 ? signed_byte(words[j], e) : nibble_less_8(words[j], e));
          *reinterpret_cast<uint2*>(keys + (d + e) * kRow + b * kT + t) = {two_halves(v[0], v[1]),
                                                                           two_halves(v[2], v[3])};
        }
      }
    }
  } else {
    // Half a row of a block each. Eight neighbours take eight rows, whose places are in different banks.
    const bool in_eights = dim % 8 == 0;
    for (int p = thread; p < 2 * dim; p += n_threads) {
      const int d = in_eights ? p / 16 * 8 + p % 8 : p / 2, half = in_eights ? p / 8 % 2 : p % 2;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        auto* to = reinterpret_cast<uint4*>(keys + d * kRow + b * kT + 8 * half);
        if (kv.k_type == ops::KvType::f16 && tiles.at[b] != nullptr)
          copy_async(to, reinterpret_cast<const uint4*>(tiles.at[b]) + 2 * d + half);
        else
          *to = eight_halves(kv.k_type, tiles.at[b], 2 * d + half);
      }
    }
  }
  for (int i = thread; i < (kDim - dim) * (kTokens / 8); i += n_threads)
    *reinterpret_cast<uint4*>(keys + (dim + i / (kTokens / 8)) * kRow + i % (kTokens / 8) * 8) = {0, 0, 0, 0};
}

// values[t][d] (row length kDim + 8), likewise, but zero from `end` on: positions that nobody has written yet may hold
// anything, and a weight of zero would not silence a NaN.
template <int kDim, int kTokens>
__device__ inline void load_values(const KvView& kv, int64_t first, int64_t end, int thread, int n_threads,
                                   uint16_t* values) {
  constexpr int kRow = kDim + 8, kT = ops::kKvBlockTokens, kBlocks = Tiles<kTokens>::kBlocks;
  const Tiles<kTokens> tiles(kv, first, end, kv.key_tile_bytes);
  const int dim = kv.value_dim;
  const int n = end - first < kTokens ? static_cast<int>(end - first) : kTokens;
  const auto row_of = [&](int b, int t) { return b * kT + t < n ? tiles.at[b] : nullptr; };
  const auto store = [&](int t, int d, uint4 v) { *reinterpret_cast<uint4*>(values + t * kRow + d) = v; };
  if (kv.v_type == ops::KvType::q8_0 || kv.v_type == ops::KvType::q4_0) {
    // Sixteen dims of a position (q8_0) or thirty-two (q4_0).
    const bool is_q8 = kv.v_type == ops::KvType::q8_0;
    const int step = is_q8 ? 16 : 32, each = dim / step, codes_at = dim;
    for (int p = thread; p < kT * each; p += n_threads) {
      const int t = p / each, d = p % each * step;
      uint4 codes[kBlocks];
      uint16_t scales[kBlocks];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint8_t* tile = row_of(b, t);
        codes[b] = sixteen_bytes(tile != nullptr ? tile + codes_at : nullptr, p);
        scales[b] = tile != nullptr ? reinterpret_cast<const uint16_t*>(tile)[t * (dim / 32) + d / 32] : uint16_t{0};
      }
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const float s = half_to_float(scales[b]);
        const uint32_t words[4] = {codes[b].x, codes[b].y, codes[b].z, codes[b].w};
        uint32_t low[8], high[8];  // dims 2i, 2i + 1 of the first sixteen, and of the second
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t word = words[i / 2];
          const int e = i % 2 * 2;
          low[i] = is_q8 ? two_halves(s * signed_byte(word, e), s * signed_byte(word, e + 1))
                         : two_halves(s * nibble_less_8(word, e), s * nibble_less_8(word, e + 1));
          high[i] = two_halves(s * nibble_less_8(word, e + 4), s * nibble_less_8(word, e + 5));
        }
        store(b * kT + t, d, {low[0], low[1], low[2], low[3]});
        store(b * kT + t, d + 8, {low[4], low[5], low[6], low[7]});
        if (!is_q8) {
          store(b * kT + t, d + 16, {high[0], high[1], high[2], high[3]});
          store(b * kT + t, d + 24, {high[4], high[5], high[6], high[7]});
        }
      }
    }
  } else if (dim % 8 == 0) {
    const int each = dim / 8;
    for (int p = thread; p < kT * each; p += n_threads) {
      const int t = p / each, d = p % each * 8;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint8_t* tile = row_of(b, t);
        if (kv.v_type == ops::KvType::f16 && tile != nullptr)
          copy_async(values + (b * kT + t) * kRow + d, reinterpret_cast<const uint4*>(tile) + p);
        else
          store(b * kT + t, d, eight_halves(kv.v_type, tile, p));
      }
    }
  } else {
    for (int i = thread; i < kTokens * dim; i += n_threads) {
      const int t = i / dim, d = i % dim, at = t % kT * dim + d;
      const int32_t block = t < n ? kv.table[(first + t) / kT] : -1;
      const uint8_t* tile = block < 0 ? nullptr : kv.blocks + block * kv.block_bytes + kv.key_tile_bytes;
      uint16_t v = 0;
      if (tile != nullptr && kv.v_type == ops::KvType::f16)
        v = reinterpret_cast<const uint16_t*>(tile)[at];
      else if (tile != nullptr && kv.v_type == ops::KvType::bf16)
        v = bounded_half(bits_to_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(tile)[at]) << 16));
      else if (tile != nullptr)
        v = bounded_half(reinterpret_cast<const float*>(tile)[at]);
      values[t * kRow + d] = v;
    }
  }
  const int missing = kDim - dim;
  for (int i = thread; i < kTokens * missing; i += n_threads) values[i / missing * kRow + dim + i % missing] = 0;
}

}  // namespace halfbyte::cuda
