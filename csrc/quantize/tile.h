// What an encoder works on: sixteen blocks side by side, one a lane, with a weight for the squared error of each
// number.
#pragma once

#include <cstdint>

#include "quantize/lanes.h"

namespace halfbyte::quantize {

// Numbers of one lane; formats of 32 weights use the first 32 rows.
using Rows = float (*)[kLanes];
using ConstRows = const float (*)[kLanes];

struct Tile {
  alignas(64) float x[256][kLanes];
  alignas(64) float importance[256][kLanes];  // >= 0
};

// Encodes the tile's blocks to out[lane]. Three builds of the same code; the widest that the CPU runs is called.
struct TileEncoder {
  void (*narrow)(const Tile&, uint8_t* const* out);
  void (*avx2)(const Tile&, uint8_t* const* out);
  void (*avx512)(const Tile&, uint8_t* const* out);
};

// HALFBYTE_TILE_ENCODER(name): the TileEncoder `name` made of the template function encode_<name><L>. `flatten` pulls
// all that it calls into each build, so no code is shared between instruction sets.
#if defined(__x86_64__)
#define HALFBYTE_TILE_ENCODER(name)                                                                      \
  [[gnu::flatten]] static void name##_narrow(const Tile& tile, uint8_t* const* out) {                    \
    encode_##name<Lanes128>(tile, out);                                                                  \
  }                                                                                                      \
  [[gnu::flatten, gnu::target("avx2")]] static void name##_avx2(const Tile& tile, uint8_t* const* out) { \
    encode_##name<Lanes256>(tile, out);                                                                  \
  }                                                                                                      \
  [[gnu::flatten, gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]]            \
  static void name##_avx512(const Tile& tile, uint8_t* const* out) {                                     \
    encode_##name<Lanes512>(tile, out);                                                                  \
  }                                                                                                      \
  const TileEncoder name = {name##_narrow, name##_avx2, name##_avx512};
#else
#define HALFBYTE_TILE_ENCODER(name)                                                   \
  [[gnu::flatten]] static void name##_narrow(const Tile& tile, uint8_t* const* out) { \
    encode_##name<Lanes128>(tile, out);                                               \
  }                                                                                   \
  const TileEncoder name = {name##_narrow, name##_narrow, name##_narrow};
#endif

// Codes of all lanes as bytes, 0 to 255.
template <class L>
inline void store_codes(uint8_t* to, const L& codes) {
  float lane[kLanes];
  store(lane, codes);
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint8_t>(static_cast<int>(lane[i]));
}

// Codes of all lanes as floats (row = element) -> one lane's bytes, shifted by `bias`.
inline void lane_codes(ConstRows codes, int n, int lane, float bias, uint8_t* out) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(static_cast<int>(codes[i][lane] + bias));
}

}  // namespace halfbyte::quantize
