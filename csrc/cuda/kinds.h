// The device's matrix layouts: which kinds there are, and how the bytes of a cell lie.
//
// A matrix is cut into row tiles of 16 rows, padded to an even number, and each row tile into cells: 64 columns for
// formats in blocks of 32, 256 for super-blocks. Cells of a row tile follow one another. A cell holds its codes in the
// order in which the lanes of a warp feed them to the tensor cores, then its scales.
//
// Tile i of a cell is 32 columns. Lane 4g + t feeds four words of four codes each: word r is row g + 8 (r % 2), columns
// 16 (r / 2) + 4t .. + 3. Tiles come in pairs, so that a lane's codes are whole 16-, 8- or 4-byte loads:
//
//   nibbles   512 bytes a pair, lane's 16: tile by tile, word 0 | word 2 << 4, word 1 | word 3 << 4
//   two bits  256 bytes a pair, lane's 8: tile by tile, word r at bits 2r of each byte
//   one bit   128 bytes a pair, lane's 4: word r of tile i at bit 4i + r of each byte
//   bytes     1024 bytes a pair, tile by tile, lane's 16: words 0 .. 3
//   floats    2048 bytes a cell of 64 columns: for 16 columns each, lane's 16: rows g, g + 8, g, g + 8 of columns 2t,
//             2t + 1 (first two) and 2t + 8, 2t + 9
//
// Scales, row by row (16 rows):
//
//   half32    f16 of each tile; then, where there is a minimum, f16 of each tile
//   half16    f16 of each half tile
//   e8m0      exponent byte of each tile
//   packed6   12 bytes of Q4_K and Q5_K as in the file; then f16 d, dmin of each row
//   int32     int8 of each tile; then f16 d of each row
//   int16     int8 of each half tile; then f16 d of each row
//   nibbles16 scale | minimum << 4 of each half tile; then f16 d, dmin of each row
#pragma once

#include <cstdint>

#include "formats/format.h"

namespace halfbyte::cuda {

enum class Kind : uint8_t {
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  table,          // IQ4_NL: nibbles name one of 16 values
  table_e8m0,     // MXFP4
  table_half16,   // NVFP4
  table_super,    // IQ4_XS IQ2_XXS IQ3_XXS IQ3_S IQ1_S: their grids have at most 16 different values
  table_super16,  // IQ2_XS IQ2_S IQ1_M
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  ternary,  // TQ1_0 TQ2_0 Q2_0, and Q1_0 without its zero
  f16,
  bf16,
  f32,  // rows as they are
};
inline constexpr int kKinds = static_cast<int>(Kind::f32) + 1;

enum class Scales : uint8_t { none, half32, half16, e8m0, packed6, int32, int16, nibbles16 };

struct Shape {
  int tiles = 2;  // of 32 columns in a cell
  int nibbles = 0, two_bits = 0, one_bit = 0, bytes = 0, floats = 0;
  bool is_signed = false;  // codes are int8, else uint8
  bool has_table = false;  // nibbles name entries of the matrix's table
  int offset = 0;          // w = scale * (code - offset) - minimum
  Scales scales = Scales::none;
  bool has_minimum = false;

  constexpr int columns() const { return 32 * tiles; }
  constexpr int pairs() const { return tiles / 2; }
  constexpr int step() const {  // columns that share a scale
    return scales == Scales::half16 || scales == Scales::int16 || scales == Scales::nibbles16 ? 16 : 32;
  }
  constexpr int one_bit_at() const { return pairs() * (512 * nibbles + 256 * two_bits); }
  constexpr int two_bits_at() const { return pairs() * 512 * nibbles; }
  constexpr int scales_at() const { return one_bit_at() + pairs() * (128 * one_bit + 1024 * bytes) + 2048 * floats; }
  constexpr int row_scale_bytes() const {
    switch (scales) {
      case Scales::none:
        return 0;
      case Scales::half32:
        return 2 * tiles;
      case Scales::half16:
        return 4 * tiles;
      case Scales::e8m0:
      case Scales::int32:
        return tiles;
      case Scales::packed6:
        return 12;
      case Scales::int16:
      case Scales::nibbles16:
        return 2 * tiles;
    }
    return 0;
  }
  constexpr bool has_super() const {
    return scales == Scales::packed6 || scales == Scales::int32 || scales == Scales::int16 ||
           scales == Scales::nibbles16;
  }
  constexpr int minimums_at() const { return scales_at() + 16 * row_scale_bytes(); }  // half32
  constexpr int super_at() const { return scales_at() + 16 * row_scale_bytes(); }     // d, or d and dmin, of each row
  constexpr int cell_bytes() const {
    const int behind = has_super() ? 32 * (has_minimum ? 2 : 1) : has_minimum ? 16 * row_scale_bytes() : 0;
    return scales_at() + 16 * row_scale_bytes() + behind;
  }
};

constexpr Shape shape_of(Kind kind) {
  switch (kind) {
    case Kind::q4_0:
      return {.nibbles = 1, .offset = 8, .scales = Scales::half32};
    case Kind::q4_1:
      return {.nibbles = 1, .scales = Scales::half32, .has_minimum = true};
    case Kind::q5_0:
      return {.nibbles = 1, .one_bit = 1, .offset = 16, .scales = Scales::half32};
    case Kind::q5_1:
      return {.nibbles = 1, .one_bit = 1, .scales = Scales::half32, .has_minimum = true};
    case Kind::q8_0:
      return {.bytes = 1, .is_signed = true, .scales = Scales::half32};
    case Kind::table:
      return {.nibbles = 1, .is_signed = true, .has_table = true, .scales = Scales::half32};
    case Kind::table_e8m0:
      return {.nibbles = 1, .is_signed = true, .has_table = true, .scales = Scales::e8m0};
    case Kind::table_half16:
      return {.nibbles = 1, .is_signed = true, .has_table = true, .scales = Scales::half16};
    case Kind::table_super:
      return {.tiles = 8, .nibbles = 1, .is_signed = true, .has_table = true, .scales = Scales::int32};
    case Kind::table_super16:
      return {.tiles = 8, .nibbles = 1, .is_signed = true, .has_table = true, .scales = Scales::int16};
    case Kind::q2_k:
      return {.tiles = 8, .two_bits = 1, .scales = Scales::nibbles16, .has_minimum = true};
    case Kind::q3_k:
      return {.tiles = 8, .two_bits = 1, .one_bit = 1, .offset = 4, .scales = Scales::int16};
    case Kind::q4_k:
      return {.tiles = 8, .nibbles = 1, .scales = Scales::packed6, .has_minimum = true};
    case Kind::q5_k:
      return {.tiles = 8, .nibbles = 1, .one_bit = 1, .scales = Scales::packed6, .has_minimum = true};
    case Kind::q6_k:
      return {.tiles = 8, .nibbles = 1, .two_bits = 1, .offset = 32, .scales = Scales::int16};
    case Kind::ternary:
      return {.two_bits = 1, .offset = 1, .scales = Scales::half32};
    case Kind::f16:
    case Kind::bf16:
      return {.floats = 1};
    case Kind::f32:
      return {};
  }
  return {};
}

static_assert(shape_of(Kind::q4_k).cell_bytes() == 16 * 144, "as many bytes as the file's blocks");
static_assert(shape_of(Kind::q6_k).cell_bytes() == 16 * 210);
static_assert(shape_of(Kind::q3_k).cell_bytes() == 16 * 110 + 64, "6-bit scales are widened to bytes");
static_assert(shape_of(Kind::q4_0).cell_bytes() == 16 * 36);

// The kind that a format is packed into; false for formats that no matrix uses (integers, doubles, Q8_1, Q8_K).
bool kind_of(const formats::Format& format, Kind& kind);

// Sixteen int8 values that nibbles may name, and a factor of every scale (both for kinds with a table).
struct Table {
  int8_t values[16];
  float factor;
};
const Table& table_of(const formats::Format& format);

inline int64_t cells_of(Kind kind, int64_t n_cols) {
  const int columns = shape_of(kind).columns();
  return (n_cols + columns - 1) / columns;
}
inline int64_t row_tiles_of(int64_t n_rows) {
  return (n_rows + 31) / 32 * 2;
}

// How many warps share a row tile's cells; their sums are added in order. A function of the matrix alone, so that every
// kernel gives the same bits.
inline int slices_of(Kind kind, int64_t n_rows, int64_t n_cols) {
  const int64_t pairs = row_tiles_of(n_rows) / 2, columns_each = 512;
  int slices = 1;
  while (slices < 8 && pairs * slices < 1536 && n_cols >= 2 * slices * columns_each) slices *= 2;
  return slices;
}

}  // namespace halfbyte::cuda
