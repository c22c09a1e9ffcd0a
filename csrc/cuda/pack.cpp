// Packs row tiles on the host's threads while those packed before are on their way to the device.
#include "cuda/pack.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "cuda/device.h"
#include "cuda/upload.h"

namespace halfbyte::cuda {

namespace {

constexpr int kRows = 16;

void store_u16(uint8_t* p, uint16_t value) {
  std::memcpy(p, &value, sizeof value);
}

// Sets bits of the four bytes at `to`, which held zeros there.
void add_bits(uint8_t* to, uint32_t bits) {
  uint32_t word;
  std::memcpy(&word, to, sizeof word);
  word |= bits;
  std::memcpy(to, &word, sizeof word);
}

// Codes of row `row` of tile `tile`, bit plane by bit plane: the four codes of a lane's word at a time, a byte each.
void place_codes(const Shape& shape, const uint8_t* codes, int row, int tile, uint8_t* cell) {
  const int pair = tile / 2, i = tile % 2, g = row % 8;
  for (int four = 0; four < 8; ++four) {
    const int lane = 4 * g + four % 4, word = four / 4 * 2 + row / 8;
    uint32_t bytes;
    std::memcpy(&bytes, codes + 4 * four, sizeof bytes);
    if (shape.bytes != 0) add_bits(cell + 1024 * pair + 512 * i + 16 * lane + 4 * word, bytes);
    if (shape.nibbles != 0) {
      add_bits(cell + 512 * pair + 16 * lane + 8 * i + 4 * (word % 2), (bytes & 0x0f0f0f0fu) << 4 * (word / 2));
      bytes = bytes >> 4 & 0x0f0f0f0fu;
    }
    if (shape.two_bits != 0) {
      add_bits(cell + shape.two_bits_at() + 256 * pair + 8 * lane + 4 * i, (bytes & 0x03030303u) << 2 * word);
      bytes = bytes >> 2 & 0x3f3f3f3fu;
    }
    if (shape.one_bit != 0)
      add_bits(cell + shape.one_bit_at() + 128 * pair + 4 * lane, (bytes & 0x01010101u) << (4 * i + word));
  }
}

// A row tile of codes; rows past the matrix stay zero, scales included.
void pack_codes(const ops::MatrixSource& source, Kind kind, int64_t row_tile, uint8_t* out) {
  const Shape shape = shape_of(kind);
  const int64_t n_cells = cells_of(kind, source.n_cols), row_bytes = source.format->row_bytes(source.n_cols);
  const int per_block = source.format->block_weights / 32;
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.bytes.data());
  std::memset(out, 0, static_cast<size_t>(n_cells * shape.cell_bytes()));
  for (int row = 0; row < kRows && row_tile * kRows + row < source.n_rows; ++row) {
    const uint8_t* file_row = bytes + (row_tile * kRows + row) * row_bytes;
    for (int64_t block = 0; block < source.n_cols / 32; ++block) {
      Piece piece;
      take_apart(*source.format, file_row + block / per_block * source.format->block_bytes,
                 static_cast<int>(block % per_block), piece);
      place(shape, piece, row, static_cast<int>(block % shape.tiles), out + block / shape.tiles * shape.cell_bytes());
    }
  }
}

void pack_halves(const ops::MatrixSource& source, int64_t row_tile, uint8_t* out) {
  const int64_t n_cells = cells_of(Kind::f16, source.n_cols);
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.bytes.data());
  std::memset(out, 0, static_cast<size_t>(n_cells * 2048));
  for (int row = 0; row < kRows && row_tile * kRows + row < source.n_rows; ++row) {
    for (int64_t k = 0; k < source.n_cols; ++k) {
      const int64_t in16 = k % 16, lane = row % 8 * 4 + in16 % 8 / 2, word = in16 / 8 * 2 + row / 8;
      std::memcpy(out + k / 16 * 512 + 16 * lane + 4 * word + k % 2 * 2,
                  bytes + ((row_tile * kRows + row) * source.n_cols + k) * 2, 2);
    }
  }
}

int64_t row_tile_bytes(Kind kind, int64_t n_cols) {
  return kind == Kind::f32 ? kRows * n_cols * 4 : cells_of(kind, n_cols) * shape_of(kind).cell_bytes();
}

void pack_row_tile(const ops::MatrixSource& source, Kind kind, int64_t row_tile, uint8_t* out) {
  if (kind == Kind::f16 || kind == Kind::bf16) return pack_halves(source, row_tile, out);
  if (kind != Kind::f32) return pack_codes(source, kind, row_tile, out);
  std::memset(out, 0, static_cast<size_t>(row_tile_bytes(kind, source.n_cols)));
  const int64_t n_rows = std::clamp<int64_t>(source.n_rows - row_tile * kRows, 0, kRows);
  source.format->decode(source.bytes.data() + row_tile * kRows * source.format->row_bytes(source.n_cols),
                        reinterpret_cast<float*>(out), n_rows * source.n_cols / source.format->block_weights);
}

}  // namespace

void place(const Shape& shape, const Piece& piece, int row, int tile, uint8_t* cell) {
  place_codes(shape, piece.codes, row, tile, cell);
  uint8_t* scales = cell + shape.scales_at() + row * shape.row_scale_bytes();
  switch (shape.scales) {
    case Scales::none:
      break;
    case Scales::half32:
      store_u16(scales + 2 * tile, piece.halves[0]);
      if (shape.has_minimum)
        store_u16(cell + shape.minimums_at() + row * shape.row_scale_bytes() + 2 * tile, piece.halves[1]);
      break;
    case Scales::half16:
      for (int h = 0; h < 2; ++h) store_u16(scales + 4 * tile + 2 * h, piece.half_scales[h]);
      break;
    case Scales::e8m0:
    case Scales::int32:
      scales[tile] = piece.scales[0];
      break;
    case Scales::packed6:
      std::memcpy(scales, piece.packed6, 12);
      break;
    case Scales::int16:
      for (int h = 0; h < 2; ++h) scales[2 * tile + h] = piece.scales[h];
      break;
    case Scales::nibbles16:
      for (int h = 0; h < 2; ++h) scales[2 * tile + h] = static_cast<uint8_t>(piece.scales[h] | piece.minimums[h] << 4);
      break;
  }
  if (!shape.has_super()) return;
  const int n_halves = shape.has_minimum ? 2 : 1;
  for (int i = 0; i < n_halves; ++i) store_u16(cell + shape.super_at() + 2 * (n_halves * row + i), piece.halves[i]);
}

ops::Matrix pack(const ops::MatrixSource& source, bool keep_raw, ThreadPool& pool) {
  ops::Matrix m = ops::raw_matrix(source);
  if (keep_raw) return m;
  Kind kind;
  if (!packed_kind(*source.format, kind)) {
    throw Error(ErrorKind::unsupported,
                format_string("A matrix in %.*s cannot be computed on the GPU.",
                              static_cast<int>(source.format->name.size()), source.format->name.data()),
                "Use the CPU with -ngl 0.");
  }
  const int64_t tile_bytes = row_tile_bytes(kind, source.n_cols), tiles_each = row_tiles_of(source.n_rows);
  const int64_t n_tiles = source.n_matrices * tiles_each, source_bytes = m.matrix_bytes;
  m.layout = ops::Layout::tiles;
  m.matrix_bytes = tiles_each * tile_bytes;
  m.storage = device_memory().allocate(static_cast<size_t>(n_tiles * tile_bytes), "A matrix of the model");
  m.data = m.storage.data();
  Uploader& uploader = Uploader::current();
  const std::lock_guard lock(uploader.mutex());
  const int64_t tiles_at_once = std::max<int64_t>(1, static_cast<int64_t>(Uploader::kBufferBytes) / tile_bytes);
  for (int64_t first = 0; first < n_tiles; first += tiles_at_once) {
    const int64_t n = std::min(tiles_at_once, n_tiles - first);
    auto* staged = reinterpret_cast<uint8_t*>(uploader.next_buffer(static_cast<size_t>(n * tile_bytes)));
    pool.parallel_for(n, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        ops::MatrixSource one = source;
        one.bytes = source.bytes.subspan(static_cast<size_t>((first + i) / tiles_each * source_bytes));
        pack_row_tile(one, kind, (first + i) % tiles_each, staged + i * tile_bytes);
      }
    });
    uploader.send(m.storage.data() + first * tile_bytes, static_cast<size_t>(n * tile_bytes));
  }
  return m;
}

int64_t packed_bytes(const formats::Format& format, int64_t n_rows, int64_t n_cols) {
  Kind kind;
  return packed_kind(format, kind) ? row_tiles_of(n_rows) * row_tile_bytes(kind, n_cols) : 0;
}

void finish_packing() {
  Uploader& uploader = Uploader::current();
  const std::lock_guard lock(uploader.mutex());
  uploader.finish();
}

}  // namespace halfbyte::cuda
