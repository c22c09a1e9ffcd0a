// The instructions of tiles.h in plain C++, for tests on machines without AMX: the same shapes, the same zeroed
// remainders, and a trap wherever the processor would raise an exception.
// Included by tiles.h only.

inline constexpr int kTiles = 8;

// A thread's tiles; palette 0 is the state after tile_release(), in which no tile may be used.
struct TileState {
  TileShapes shapes = {.palette = 0};
  uint8_t bytes[kTiles][16][64] = {};
};
thread_local TileState tile_state;

inline void expect(bool holds) {
  if (!holds) __builtin_trap();
}

inline void clear_tile(int tile) {
  __builtin_memset(tile_state.bytes[tile], 0, sizeof tile_state.bytes[tile]);
}

inline void expect_configured(int tile) {
  expect(tile_state.shapes.palette == 1 && tile_state.shapes.rows[tile] > 0 && tile_state.shapes.row_bytes[tile] > 0);
}

inline void tile_shapes(const TileShapes& shapes) {
  expect(shapes.palette == 1 && shapes.start_row == 0);
  for (const uint8_t byte : shapes.reserved) expect(byte == 0);
  for (int tile = 0; tile < 16; ++tile) {
    expect(shapes.rows[tile] <= (tile < kTiles ? 16 : 0) && shapes.row_bytes[tile] <= (tile < kTiles ? 64 : 0));
    expect((shapes.rows[tile] == 0) == (shapes.row_bytes[tile] == 0));
  }
  tile_state.shapes = shapes;
  for (int tile = 0; tile < kTiles; ++tile) clear_tile(tile);
}

inline void tile_release() {
  tile_state.shapes = {.palette = 0};
}

template <int tile>
inline void tile_zero() {
  static_assert(tile < kTiles);
  expect_configured(tile);
  clear_tile(tile);
}

template <int tile>
inline void tile_load(const void* from, int64_t stride) {
  tile_zero<tile>();
  for (int row = 0; row < tile_state.shapes.rows[tile]; ++row)
    __builtin_memcpy(tile_state.bytes[tile][row], static_cast<const uint8_t*>(from) + row * stride,
                     tile_state.shapes.row_bytes[tile]);
}

template <int tile>
inline void tile_store(void* to, int64_t stride) {
  static_assert(tile < kTiles);
  expect_configured(tile);
  for (int row = 0; row < tile_state.shapes.rows[tile]; ++row)
    __builtin_memcpy(static_cast<uint8_t*>(to) + row * stride, tile_state.bytes[tile][row],
                     tile_state.shapes.row_bytes[tile]);
}

template <int sums, int a, int b>
inline void tile_dot() {
  static_assert(sums < kTiles && a < kTiles && b < kTiles && sums != a && sums != b && a != b);
  expect_configured(sums);
  expect_configured(a);
  expect_configured(b);
  const TileShapes& s = tile_state.shapes;
  expect(s.row_bytes[sums] % 4 == 0 && s.row_bytes[a] % 4 == 0 && s.row_bytes[b] % 4 == 0);
  expect(s.rows[sums] == s.rows[a] && s.row_bytes[sums] == s.row_bytes[b] && s.row_bytes[a] == 4 * s.rows[b]);
  for (int m = 0; m < s.rows[sums]; ++m) {
    for (int n = 0; n < s.row_bytes[sums] / 4; ++n) {
      int32_t total;
      __builtin_memcpy(&total, tile_state.bytes[sums][m] + 4 * n, 4);
      for (int k = 0; k < s.rows[b]; ++k) {
        for (int i = 0; i < 4; ++i)
          total += static_cast<int8_t>(tile_state.bytes[a][m][4 * k + i]) *
                   static_cast<int8_t>(tile_state.bytes[b][k][4 * n + i]);
      }
      __builtin_memcpy(tile_state.bytes[sums][m] + 4 * n, &total, 4);
    }
  }
}
