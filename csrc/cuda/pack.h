// File blocks to a device's cells.
#pragma once

#include "cuda/kinds.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// One row's 32 columns, taken apart.
struct Piece {
  uint8_t codes[32] = {};        // as the kind counts them
  uint8_t scales[2] = {};        // bytes: of the tile, or of its half tiles
  uint8_t minimums[2] = {};      // bytes of half tiles (nibbles16)
  uint16_t halves[2] = {};       // f16: d and minimum of the tile, or d and dmin of the super-block
  uint16_t half_scales[2] = {};  // f16 of half tiles (half16)
  uint8_t packed6[12] = {};
};

// Columns 32j .. 32j+31 of a file block.
void take_apart(const formats::Format& format, const uint8_t* block, int j, Piece& piece);

// Writes row `row` (0..15) of tile `tile` into a cell that was zeroed.
void place(const Shape& shape, const Piece& piece, int row, int tile, uint8_t* cell);

// See ops::Ops. keep_raw leaves the rows in host memory, for embed().
ops::Matrix pack(const ops::MatrixSource& source, bool keep_raw, ThreadPool& pool);
int64_t packed_bytes(const formats::Format& format, int64_t n_rows, int64_t n_cols);
void finish_packing();

}  // namespace halfbyte::cuda
