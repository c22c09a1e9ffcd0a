// AMX's eight tiles: the few instructions that kernels use. Inline assembly, because GCC's intrinsics do not tell the
// compiler which memory they read, and take a tile's number as text rather than as a constant.
// Included by level files only, inside their anonymous namespace.

// What ldtilecfg reads: the shape of every tile.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // up to 64
  uint8_t rows[16] = {};        // up to 16
};
static_assert(sizeof(TileShapes) == 64);

#if defined(HALFBYTE_EMULATE_AMX)
#include "cpu/kernels/tiles_emulated.h"
#else

// Gives this thread's tiles their shapes and clears them; until tile_release() a task switch saves them too.
inline void tile_shapes(const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}
inline void tile_release() {
  asm volatile("tilerelease");
}
template <int tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
// Rows stand stride bytes apart.
template <int tile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(tile), "r"(from), "r"(stride) : "memory");
}
template <int tile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(tile), "r"(to), "r"(stride) : "memory");
}
// sums[m][n] += the four products of a[m][4k .. 4k + 3] and b[k][4n .. 4n + 3], over all k: signed bytes, 32-bit sums.
template <int sums, int a, int b>
inline void tile_dot() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(a), "i"(b));
}

#endif
