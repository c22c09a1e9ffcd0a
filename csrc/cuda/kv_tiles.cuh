// Keys and values of one head out of KV blocks into shared memory as f16, whatever they are stored as.
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

__device__ inline float float_of_bfloat(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}

// keys[d][t] (row length kTokens + 8) for d in 0..kDim, t in 0..kTokens: positions first + t below `end`; zero
// elsewhere.
template <int kDim, int kTokens>
__device__ inline void load_keys(const KvView& kv, int64_t first, int64_t end, int thread, int n_threads,
                                 uint16_t* keys) {
  constexpr int kRow = kTokens + 8, kT = ops::kKvBlockTokens;
  for (int b = 0; b < kTokens / kT; ++b) {
    const int64_t position = first + b * kT;
    const int32_t block = position < end ? kv.table[position / kT] : -1;
    const uint8_t* tile = kv.blocks + block * kv.block_bytes;
    uint16_t* to = keys + b * kT;
    const int dim = block < 0 ? 0 : kv.key_dim;
    switch (kv.k_type) {
      case ops::KvType::f16:
#pragma unroll 4
        for (int i = thread; i < 2 * dim; i += n_threads)
          *reinterpret_cast<uint4*>(to + i / 2 * kRow + i % 2 * 8) = reinterpret_cast<const uint4*>(tile)[i];
        break;
      case ops::KvType::bf16:
        for (int i = thread; i < kT * dim; i += n_threads)
          to[i / kT * kRow + i % kT] = bounded_half(float_of_bfloat(reinterpret_cast<const uint16_t*>(tile)[i]));
        break;
      case ops::KvType::f32:
        for (int i = thread; i < kT * dim; i += n_threads)
          to[i / kT * kRow + i % kT] = bounded_half(reinterpret_cast<const float*>(tile)[i]);
        break;
      case ops::KvType::q8_0: {
        const auto* scales = reinterpret_cast<const uint16_t*>(tile);
        const auto* words = reinterpret_cast<const uint32_t*>(tile + 2 * (dim / 32) * kT);
#pragma unroll 4
        for (int i = thread; i < dim / 4 * kT; i += n_threads) {
          const int d = i / kT * 4, t = i % kT;
          const float scale = half_to_float(scales[d / 32 * kT + t]);
          for (int e = 0; e < 4; ++e)
            to[(d + e) * kRow + t] = float_to_half(scale * static_cast<float>(static_cast<int8_t>(words[i] >> 8 * e)));
        }
        break;
      }
      case ops::KvType::q4_0: {
        const auto* scales = reinterpret_cast<const uint16_t*>(tile);
        const auto* words = reinterpret_cast<const uint32_t*>(tile + 2 * (dim / 32) * kT);
#pragma unroll 4
        for (int i = thread; i < dim / 8 * kT; i += n_threads) {
          const int d = i / kT * 8, t = i % kT;
          const float scale = half_to_float(scales[d / 32 * kT + t]);
          for (int e = 0; e < 8; ++e) {
            const int code = static_cast<int>(words[i] >> (8 * (e % 4) + 4 * (e / 4)) & 15u);
            to[(d + e) * kRow + t] = float_to_half(scale * static_cast<float>(code - 8));
          }
        }
        break;
      }
    }
    for (int i = thread; i < kT * (kDim - dim); i += n_threads) to[(dim + i / kT) * kRow + i % kT] = 0;
  }
}

// values[t][d] (row length kDim + 8), likewise.
template <int kDim, int kTokens>
__device__ inline void load_values(const KvView& kv, int64_t first, int64_t end, int thread, int n_threads,
                                   uint16_t* values) {
  constexpr int kRow = kDim + 8, kT = ops::kKvBlockTokens;
  for (int b = 0; b < kTokens / kT; ++b) {
    const int64_t position = first + b * kT;
    const int32_t block = position < end ? kv.table[position / kT] : -1;
    const uint8_t* tile = kv.blocks + block * kv.block_bytes + kv.key_tile_bytes;
    uint16_t* to = values + b * kT * kRow;
    const int dim = kv.value_dim;
    // Positions that nobody has written yet may hold anything: a weight of zero would not silence a NaN.
    const int n = block < 0 ? 0 : end - position < kT ? static_cast<int>(end - position) : kT;
    switch (kv.v_type) {
      case ops::KvType::f16:
        if (dim % 8 == 0) {
#pragma unroll 4
          for (int i = thread; i < n * (dim / 8); i += n_threads) {
            const int t = i / (dim / 8), d = i % (dim / 8) * 8;
            *reinterpret_cast<uint4*>(to + t * kRow + d) = reinterpret_cast<const uint4*>(tile)[i];
          }
        } else {
          for (int i = thread; i < n * dim; i += n_threads)
            to[i / dim * kRow + i % dim] = reinterpret_cast<const uint16_t*>(tile)[i];
        }
        break;
      case ops::KvType::bf16:
        for (int i = thread; i < n * dim; i += n_threads)
          to[i / dim * kRow + i % dim] = bounded_half(float_of_bfloat(reinterpret_cast<const uint16_t*>(tile)[i]));
        break;
      case ops::KvType::f32:
        for (int i = thread; i < n * dim; i += n_threads)
          to[i / dim * kRow + i % dim] = bounded_half(reinterpret_cast<const float*>(tile)[i]);
        break;
      case ops::KvType::q8_0: {
        const auto* scales = reinterpret_cast<const uint16_t*>(tile);
        const auto* words = reinterpret_cast<const uint32_t*>(tile + 2 * (dim / 32) * kT);
#pragma unroll 4
        for (int i = thread; i < n * (dim / 4); i += n_threads) {
          const int t = i / (dim / 4), d = i % (dim / 4) * 4;
          const float scale = half_to_float(scales[t * (dim / 32) + d / 32]);
          for (int e = 0; e < 4; ++e)
            to[t * kRow + d + e] = float_to_half(scale * static_cast<float>(static_cast<int8_t>(words[i] >> 8 * e)));
        }
        break;
      }
      case ops::KvType::q4_0: {
        const auto* scales = reinterpret_cast<const uint16_t*>(tile);
        const auto* words = reinterpret_cast<const uint32_t*>(tile + 2 * (dim / 32) * kT);
#pragma unroll 4
        for (int i = thread; i < n * (dim / 8); i += n_threads) {
          const int t = i / (dim / 8),
                    word = i % (dim / 8);  // four bytes: dims 32 (word / 4) + 4 (word % 4) .., and + 16
          const float scale = half_to_float(scales[t * (dim / 32) + word / 4]);
          for (int e = 0; e < 8; ++e) {
            const int code = static_cast<int>(words[i] >> (8 * (e % 4) + 4 * (e / 4)) & 15u);
            to[t * kRow + word / 4 * 32 + word % 4 * 4 + e % 4 + e / 4 * 16] =
                float_to_half(scale * static_cast<float>(code - 8));
          }
        }
        break;
      }
    }
    for (int i = thread; i < kT * kDim && (n < kT || dim < kDim); i += n_threads) {
      const int t = i / kDim, d = i % kDim;
      if (t >= n || d >= dim) to[t * kRow + d] = 0;
    }
  }
}

}  // namespace halfbyte::cuda
