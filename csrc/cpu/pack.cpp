// Packs 16 rows at a time into the layouts of ops/packed.h. Plain C++: it runs once a model.
#include "cpu/pack.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "formats/iq4_xs.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"
#include "formats/q6_k.h"

namespace halfbyte::cpu {

namespace {

using formats::TypeId;

constexpr int kRows = kPanelRows;

// How a family lies in a panel: see ops/packed.h.
struct Shape {
  int super = 1;  // blocks of 32 columns per head
  int head_bytes = 0;
  int scale_bytes = 0;                                     // in front of a block's planes
  int nibbles = 0, two_bits = 0, one_bits = 0, bytes = 0;  // planes present
  int block_bytes() const { return scale_bytes + 256 * nibbles + 128 * two_bits + 64 * one_bits + 512 * bytes; }
};

constexpr Shape kShapes[] = {
    {.scale_bytes = 32, .nibbles = 1},                                                // q4_0
    {.scale_bytes = 64, .nibbles = 1},                                                // q4_1
    {.scale_bytes = 32, .nibbles = 1, .one_bits = 1},                                 // q5_0
    {.scale_bytes = 64, .nibbles = 1, .one_bits = 1},                                 // q5_1
    {.scale_bytes = 32, .bytes = 1},                                                  // q8_0
    {.scale_bytes = 32, .nibbles = 1},                                                // iq4_nl
    {.scale_bytes = 16, .nibbles = 1},                                                // mxfp4
    {.super = 8, .head_bytes = 32, .scale_bytes = 16, .nibbles = 1},                  // iq4_xs
    {.super = 8, .head_bytes = 64, .scale_bytes = 32, .nibbles = 1},                  // q4_k
    {.super = 8, .head_bytes = 64, .scale_bytes = 32, .nibbles = 1, .one_bits = 1},   // q5_k
    {.super = 8, .head_bytes = 32, .scale_bytes = 32, .nibbles = 1, .two_bits = 1},   // q6_k
    {.super = 8, .head_bytes = 32, .scale_bytes = 32, .two_bits = 1, .one_bits = 1},  // q3_k
    {.super = 8, .head_bytes = 64, .scale_bytes = 32, .two_bits = 1},                 // q2_k
};

// One row's block of 32 columns, taken apart.
struct Piece {
  uint8_t codes[32];  // as the family counts them (offset codes)
  uint8_t scales[4];  // byte scales in panel order
  uint8_t halves[4];  // two f16: d and m, or d and dmin
};

void nibble_codes(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) codes[i] = qs[i] & 15, codes[16 + i] = qs[i] >> 4;
}

void fifth_bits(uint32_t bits, uint8_t* codes) {
  for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(codes[e] | (bits >> e & 1) << 4);
}

// `block` is a file block; j the 32-column block inside it.
void take_apart(PanelKind kind, const uint8_t* block, int j, Piece& piece) {
  switch (kind) {
    case PanelKind::q4_0:
    case PanelKind::iq4_nl:
      std::memcpy(piece.halves, block, 2);
      return nibble_codes(block + 2, piece.codes);
    case PanelKind::q4_1:
      std::memcpy(piece.halves, block, 4);
      return nibble_codes(block + 4, piece.codes);
    case PanelKind::q5_0:
      std::memcpy(piece.halves, block, 2);
      nibble_codes(block + 6, piece.codes);
      return fifth_bits(formats::load_u32(block + 2), piece.codes);
    case PanelKind::q5_1:
      std::memcpy(piece.halves, block, 4);
      nibble_codes(block + 8, piece.codes);
      return fifth_bits(formats::load_u32(block + 4), piece.codes);
    case PanelKind::q8_0:
      std::memcpy(piece.halves, block, 2);
      for (int e = 0; e < 32; ++e) piece.codes[e] = block[2 + e] ^ 0x80;
      return;
    case PanelKind::mxfp4:
      piece.scales[0] = block[0];
      return nibble_codes(block + 1, piece.codes);
    case PanelKind::iq4_xs:
      std::memcpy(piece.halves, block, 2);
      piece.scales[0] = static_cast<uint8_t>(formats::IQ4_XS::scale(block, j) - 32);
      return nibble_codes(block + 8 + 16 * j, piece.codes);
    case PanelKind::q4_k:
    case PanelKind::q5_k: {
      std::memcpy(piece.halves, block, 4);
      const formats::ScaleMin s = formats::scale_min_k4(block + 4, j);
      piece.scales[0] = static_cast<uint8_t>(s.scale);
      piece.scales[1] = static_cast<uint8_t>(s.minimum);
      const bool fifth = kind == PanelKind::q5_k;
      const uint8_t* qs = block + (fifth ? 48 : 16) + 32 * (j / 2);
      for (int e = 0; e < 32; ++e) {
        piece.codes[e] = qs[e] >> 4 * (j % 2) & 15;
        if (fifth) piece.codes[e] = static_cast<uint8_t>(piece.codes[e] | (block[16 + e] >> j & 1) << 4);
      }
      return;
    }
    case PanelKind::q6_k:
      std::memcpy(piece.halves, block + 208, 2);
      std::memcpy(piece.scales, block + 192 + 2 * j, 2);
      for (int e = 0; e < 32; ++e) piece.codes[e] = static_cast<uint8_t>(formats::Q6_K::code(block, 32 * j + e));
      return;
    case PanelKind::q3_k:
      std::memcpy(piece.halves, block + 108, 2);
      for (int g = 0; g < 2; ++g)
        piece.scales[g] = static_cast<uint8_t>(formats::Q3_K::scale(block + 96, 2 * j + g) - 32);
      for (int e = 0; e < 32; ++e) {
        piece.codes[e] =
            static_cast<uint8_t>((block[32 + 32 * (j / 4) + e] >> 2 * (j % 4) & 3) | (block[e] >> j & 1) << 2);
      }
      return;
    case PanelKind::q2_k:
      std::memcpy(piece.halves, block + 80, 4);
      std::memcpy(piece.scales, block + 2 * j, 2);
      for (int e = 0; e < 32; ++e) piece.codes[e] = block[16 + 32 * (j / 4) + e] >> 2 * (j % 4) & 3;
      return;
    default:
      return;
  }
}

// Writes row r's codes into the block's planes (zeroed before).
void place_codes(const Shape& shape, const uint8_t* codes, int r, uint8_t* planes) {
  if (shape.bytes != 0) {
    for (int c = 0; c < 8; ++c) std::memcpy(planes + 64 * c + 4 * r, codes + 4 * c, 4);
    return;
  }
  int low_bits = 0;
  if (shape.nibbles != 0) {
    for (int i = 0; i < 16; ++i)
      planes[64 * (i / 4) + 4 * r + i % 4] = static_cast<uint8_t>((codes[i] & 15) | (codes[16 + i] & 15) << 4);
    planes += 256;
    low_bits = 4;
  }
  if (shape.two_bits != 0) {
    for (int e = 0; e < 32; ++e) {
      uint8_t& byte = planes[64 * (e / 16) + 4 * r + e % 4];
      byte = static_cast<uint8_t>(byte | (codes[e] >> low_bits & 3) << 2 * (e / 4 % 4));
    }
    planes += 128;
    low_bits += 2;
  }
  if (shape.one_bits != 0) {
    for (int e = 0; e < 32; ++e) {
      uint8_t& byte = planes[4 * r + e % 4];
      byte = static_cast<uint8_t>(byte | (codes[e] >> low_bits & 1) << e / 4);
    }
  }
}

void pack_int_panel(PanelKind kind, const ops::MatrixSource& source, int64_t first_row, uint8_t* panel) {
  const Shape& shape = kShapes[static_cast<int>(kind)];
  const int64_t n_rows = std::min<int64_t>(kRows, source.n_rows - first_row), n_blocks = source.n_cols / 32;
  const int64_t row_bytes = source.format->row_bytes(source.n_cols);
  const int per_file_block = source.format->block_weights / 32;
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.bytes.data());
  const bool byte_scales = shape.super > 1 || kind == PanelKind::mxfp4;
  uint8_t* head = nullptr;
  std::memset(panel, 0, static_cast<size_t>(panel_bytes(kind, source.n_cols)));
  for (int64_t b = 0; b < n_blocks; ++b) {
    if (shape.head_bytes != 0 && b % shape.super == 0) {
      head = panel;
      panel += shape.head_bytes;
    }
    for (int r = 0; r < n_rows; ++r) {
      Piece piece = {};
      const uint8_t* row = bytes + (first_row + r) * row_bytes;
      take_apart(kind, row + b / per_file_block * source.format->block_bytes, static_cast<int>(b % per_file_block),
                 piece);
      uint8_t* halves = head != nullptr ? head : panel;
      const int n_halves = (head != nullptr ? shape.head_bytes : byte_scales ? 0 : shape.scale_bytes) / 32;
      for (int h = 0; h < n_halves; ++h) std::memcpy(halves + 32 * h + 2 * r, piece.halves + 2 * h, 2);
      if (byte_scales) {
        for (int s = 0; s < shape.scale_bytes / 16; ++s) panel[16 * s + r] = piece.scales[s];
      }
      place_codes(shape, piece.codes, r, panel + shape.scale_bytes);
    }
    panel += shape.block_bytes();
  }
}

void pack_float_panel(const ops::MatrixSource& source, int64_t first_row, uint8_t* panel) {
  const int64_t n_rows = std::min<int64_t>(kRows, source.n_rows - first_row);
  const auto size = static_cast<size_t>(source.format->block_bytes);
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.bytes.data());
  for (int64_t k = 0; k < source.n_cols; ++k) {
    for (int64_t r = 0; r < kRows; ++r, panel += size) {
      if (r < n_rows)
        std::memcpy(panel, bytes + static_cast<size_t>((first_row + r) * source.n_cols + k) * size, size);
      else
        std::memset(panel, 0, size);
    }
  }
}

}  // namespace

bool panel_kind(const formats::Format& format, PanelKind& kind) {
  switch (format.id) {
    case TypeId::q4_0:
      kind = PanelKind::q4_0;
      return true;
    case TypeId::q4_1:
      kind = PanelKind::q4_1;
      return true;
    case TypeId::q5_0:
      kind = PanelKind::q5_0;
      return true;
    case TypeId::q5_1:
      kind = PanelKind::q5_1;
      return true;
    case TypeId::q8_0:
      kind = PanelKind::q8_0;
      return true;
    case TypeId::iq4_nl:
      kind = PanelKind::iq4_nl;
      return true;
    case TypeId::mxfp4:
      kind = PanelKind::mxfp4;
      return true;
    case TypeId::iq4_xs:
      kind = PanelKind::iq4_xs;
      return true;
    case TypeId::q4_k:
      kind = PanelKind::q4_k;
      return true;
    case TypeId::q5_k:
      kind = PanelKind::q5_k;
      return true;
    case TypeId::q6_k:
      kind = PanelKind::q6_k;
      return true;
    case TypeId::q3_k:
      kind = PanelKind::q3_k;
      return true;
    case TypeId::q2_k:
      kind = PanelKind::q2_k;
      return true;
    case TypeId::f32:
      kind = PanelKind::f32;
      return true;
    case TypeId::f16:
      kind = PanelKind::f16;
      return true;
    case TypeId::bf16:
      kind = PanelKind::bf16;
      return true;
    default:
      return false;
  }
}

int64_t panel_bytes(PanelKind kind, int64_t n_cols) {
  if (static_cast<int>(kind) >= kFirstFloatKind) return n_cols * kRows * (kind == PanelKind::f32 ? 4 : 2);
  const Shape& shape = kShapes[static_cast<int>(kind)];
  const int64_t n_blocks = n_cols / 32;
  return n_blocks / shape.super * shape.head_bytes + n_blocks * shape.block_bytes();
}

ops::Matrix pack(const ops::MatrixSource& source, bool keep_raw, ThreadPool& pool) {
  require(source.format != nullptr && source.n_cols % source.format->block_weights == 0 &&
              static_cast<int64_t>(source.bytes.size()) >= source.n_rows * source.format->row_bytes(source.n_cols),
          "A matrix of %lld x %lld does not fit its %zu bytes.", static_cast<long long>(source.n_rows),
          static_cast<long long>(source.n_cols), source.bytes.size());
  ops::Matrix m;
  m.format = source.format;
  m.n_rows = source.n_rows;
  m.n_cols = source.n_cols;
  m.data = source.bytes.data();
  PanelKind kind;
  if (keep_raw || !panel_kind(*source.format, kind)) return m;
  m.layout = ops::Layout::panels;
  m.panel_bytes = panel_bytes(kind, source.n_cols);
  const int64_t n_panels = (source.n_rows + kRows - 1) / kRows;
  m.storage = Buffer(static_cast<size_t>(n_panels * m.panel_bytes), "A packed matrix");
  auto* out = m.storage.as<uint8_t>();
  pool.parallel_for(n_panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      if (static_cast<int>(kind) >= kFirstFloatKind)
        pack_float_panel(source, p * kRows, out + p * m.panel_bytes);
      else
        pack_int_panel(kind, source, p * kRows, out + p * m.panel_bytes);
    }
  });
  m.data = m.storage.data();
  return m;
}

}  // namespace halfbyte::cpu
