// What an encoder works on: sixteen blocks side by side, one a lane, with a weight for the squared error of each
// number.
#pragma once

#include <cstdint>

#include "quantize/lanes.h"

namespace halfbyte::quantize {

// Numbers of one lane; formats of 32 weights use the first 32 rows.
using Rows = float (*)[kLanes];
using ConstRows = const float (*)[kLanes];

// Sixteen blocks as they lie in memory.
struct Blocks {
  int width;  // 32 or 256 weights
  const float* x[kLanes];
  const float* importance[kLanes];  // >= 0; none of them, where all numbers count alike
};

struct Tile {
  alignas(64) float x[256][kLanes];
  alignas(64) float importance[256][kLanes];  // >= 0
};

// Encodes blocks to out[lane]. Three builds of the same code; the widest that the CPU runs is called.
struct TileEncoder {
  void (*narrow)(const Blocks&, uint8_t* const* out);
  void (*avx2)(const Blocks&, uint8_t* const* out);
  void (*avx512)(const Blocks&, uint8_t* const* out);
};

// The block of each lane -> row i holds number i of all lanes. Four by four, in registers.
inline void lay_across(const float* const* lanes, int n, Rows rows) {
  for (int lane = 0; lane < kLanes; lane += 4) {
    for (int i = 0; i < n; i += 4) {
      const Float4 a = load<Float4>(lanes[lane] + i), b = load<Float4>(lanes[lane + 1] + i);
      const Float4 c = load<Float4>(lanes[lane + 2] + i), d = load<Float4>(lanes[lane + 3] + i);
      const Float4 ab_lo = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_hi = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Float4 cd_lo = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_hi = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      store(&rows[i][lane], __builtin_shufflevector(ab_lo, cd_lo, 0, 1, 4, 5));
      store(&rows[i + 1][lane], __builtin_shufflevector(ab_lo, cd_lo, 2, 3, 6, 7));
      store(&rows[i + 2][lane], __builtin_shufflevector(ab_hi, cd_hi, 0, 1, 4, 5));
      store(&rows[i + 3][lane], __builtin_shufflevector(ab_hi, cd_hi, 2, 3, 6, 7));
    }
  }
}

// How much the squared error of a large number counts beside that of a small one.
enum class Stress {
  // All alike: for codebooks whose models have an importance matrix. With stress their entries fit the many small
  // numbers badly: by the covariance of activations they err more (one to seven percent).
  none,
  // Importance times 1 + the magnitude in halves of the block's mean. Plain squares spend themselves on the many small
  // weights and clip the few large ones, which outputs follow most: so weighted, models diverge less.
  magnitude,
};

// Fills a tile.
template <class L>
inline void lay_out(const Blocks& blocks, Stress stress, Tile& tile) {
  lay_across(blocks.x, blocks.width, tile.x);
  const bool weighted = blocks.importance[0] != nullptr;
  if (weighted) lay_across(blocks.importance, blocks.width, tile.importance);
  if (stress == Stress::none) {
    for (int i = 0; i < blocks.width && !weighted; ++i) store(tile.importance[i], lanes_of<L>(1.0f));
    return;
  }
  L sum = lanes_of<L>(1e-30f);
  for (int i = 0; i < blocks.width; ++i) sum += magnitude(load<L>(tile.x[i]));
  const L per_magnitude = lanes_of<L>(0.5f * static_cast<float>(blocks.width)) / sum;
  for (int i = 0; i < blocks.width; ++i) {
    const L weight = magnitude(load<L>(tile.x[i])) * per_magnitude + 1.0f;
    store(tile.importance[i], weighted ? load<L>(tile.importance[i]) * weight : weight);
  }
}

// HALFBYTE_TILE_ENCODER(name, stress): the TileEncoder `name` made of the template function encode_<name><L>. `flatten`
// pulls all that it calls into each build, so no code is shared between instruction sets.
#define HALFBYTE_TILE_ENCODER_BUILD(name, stress, level, L)               \
  static void name##_##level(const Blocks& blocks, uint8_t* const* out) { \
    Tile tile;                                                            \
    lay_out<L>(blocks, Stress::stress, tile);                             \
    encode_##name<L>(tile, out);                                          \
  }
#if defined(__x86_64__)
#define HALFBYTE_TILE_ENCODER(name, stress)                                                                \
  [[gnu::flatten]] HALFBYTE_TILE_ENCODER_BUILD(name, stress, narrow, Lanes128)                             \
      [[gnu::flatten, gnu::target("avx2,f16c")]] HALFBYTE_TILE_ENCODER_BUILD(name, stress, avx2, Lanes256) \
          [[gnu::flatten, gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]]      \
          HALFBYTE_TILE_ENCODER_BUILD(name, stress, avx512, Lanes512)                                      \
              const TileEncoder name = {name##_narrow, name##_avx2, name##_avx512};
#else
#define HALFBYTE_TILE_ENCODER(name, stress)                                    \
  [[gnu::flatten]] HALFBYTE_TILE_ENCODER_BUILD(name, stress, narrow, Lanes128) \
      const TileEncoder name = {name##_narrow, name##_narrow, name##_narrow};
#endif

// Codes of all lanes as bytes, 0 to 255.
template <class L>
inline void store_codes(uint8_t* to, const L& codes) {
  float lane[kLanes];
  store(lane, codes);
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint8_t>(static_cast<int>(lane[i]));
}

using Byte16 = uint8_t __attribute__((vector_size(16)));

// Codes of n elements (row = element), a multiple of sixteen -> each lane's own. Four perfect shuffles of the rows turn
// a square of sixteen.
template <int n>
inline void codes_of_lanes(const uint8_t (&codes)[n][kLanes], uint8_t (&lanes)[kLanes][n]) {
  static_assert(n % 16 == 0);
  for (int first = 0; first < n; first += 16) {
    Byte16 rows[16], shuffled[16];
    std::memcpy(rows, codes[first], sizeof rows);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 8; ++i) {
        const Byte16 a = rows[i], b = rows[i + 8];
        shuffled[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        shuffled[2 * i + 1] =
            __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      }
      std::memcpy(rows, shuffled, sizeof rows);
    }
    for (int lane = 0; lane < kLanes; ++lane) std::memcpy(lanes[lane] + first, &rows[lane], sizeof rows[lane]);
  }
}

// Codes of all lanes as floats (row = element) -> one lane's bytes, shifted by `bias`.
inline void lane_codes(ConstRows codes, int n, int lane, float bias, uint8_t* out) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(static_cast<int>(codes[i][lane] + bias));
}

}  // namespace halfbyte::quantize
