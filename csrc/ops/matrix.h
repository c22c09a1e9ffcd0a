// A weight matrix as kernels see it: a packed layout, never a file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/buffer.h"
#include "formats/format.h"

namespace halfbyte::ops {

// n_rows output features, n_cols input features (the contracted axis), contiguous in the file. Experts are stacked:
// n_matrices of that shape, one after another.
struct MatrixSource {
  const formats::Format* format = nullptr;
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  std::span<const std::byte> bytes;  // row-major blocks, n_matrices * n_rows * format->row_bytes(n_cols)
  int64_t n_matrices = 1;
};

// How a Matrix's bytes are arranged. Described bit by bit in ops/packed.h.
enum class Layout : uint8_t {
  raw,     // as in the file, row by row: not copied, `data` points into the mapping
  panels,  // 16-row interleaved panels; `format` says which family and scale kind
  tiles,   // in a device's memory, in that backend's own order
};

// Made by a backend's pack(). Owns its bytes unless the layout is raw. A stack holds each matrix as if it were alone,
// matrix_bytes apart.
struct Matrix {
  std::string name;                         // of the tensor in its file
  const formats::Format* format = nullptr;  // where the weights came from: picks decoder and kernel family
  Layout layout = Layout::raw;
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  int64_t n_matrices = 1;
  int64_t matrix_bytes = 0;
  const std::byte* data = nullptr;  // raw: rows; panels: panel p starts at data + p * panel_bytes
  int64_t panel_bytes = 0;          // panels only: bytes of one panel of 16 rows
  Buffer storage;                   // panels and tiles

  explicit operator bool() const { return data != nullptr; }
  int64_t bytes() const;  // what one pass over all of it reads
};

// The source as it lies in the file (Layout::raw); every backend's pack() begins with it. Throws where the bytes are
// too few for the shape, or a row is no whole number of blocks.
Matrix raw_matrix(const MatrixSource& source);

}  // namespace halfbyte::ops
