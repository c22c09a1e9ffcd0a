// Packs 16 rows at a time into the layouts of ops/packed.h. Plain C++, four bytes at a time.
#include "cpu/pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/iq4_xs.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"

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
  constexpr int block_bytes() const {
    return scale_bytes + 256 * nibbles + 128 * two_bits + 64 * one_bits + 512 * bytes;
  }
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

// One row's block of 32 columns as its planes hold it: a word is that row's four bytes of a 64-byte plane vector.
struct Piece {
  uint32_t planes[8];  // in panel order: nibbles 4, two-bit 2, one-bit 1, or bytes 8
  uint8_t scales[2];   // byte scales in panel order
  uint8_t halves[4];   // two f16: d and m, or d and dmin
};

uint32_t word(const uint8_t* p) {
  return formats::load_u32(p);
}

// Files of 32-weight blocks keep code i beside code i + 16, as the nibble plane does.
void copy_nibbles(const uint8_t* qs, uint32_t* planes) {
  std::memcpy(planes, qs, 16);
}

// From 32 bytes that hold a code each at `shift` (0 or 4).
void gather_nibbles(const uint8_t* qs, int shift, uint32_t* planes) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
  for (int v = 0; v < 4; ++v)
    planes[v] = (word(qs + 4 * v) >> shift & kLow) | (word(qs + 16 + 4 * v) >> shift & kLow) << 4;
}

// From 32 bytes that hold two bits each at `shift`.
void gather_two_bits(const uint8_t* qs, int shift, uint32_t* planes) {
  for (int h = 0; h < 2; ++h) {
    planes[h] = 0;
    for (int u = 0; u < 4; ++u) planes[h] |= (word(qs + 16 * h + 4 * u) >> shift & 0x03030303) << 2 * u;
  }
}

// From 32 bytes that hold one bit each at `shift`.
uint32_t gather_bits(const uint8_t* qs, int shift) {
  uint32_t plane = 0;
  for (int c = 0; c < 8; ++c) plane |= (word(qs + 4 * c) >> shift & 0x01010101) << c;
  return plane;
}

// From 32 bits in order: bits 4c .. 4c + 3 become bit c of four bytes.
uint32_t spread_bits(uint32_t bits) {
  uint32_t plane = 0;
  for (int c = 0; c < 8; ++c) plane |= ((bits >> 4 * c & 15) * 0x00204081 & 0x01010101) << c;
  return plane;
}

// Row block `block`, its 32 columns number j.
template <PanelKind kind>
void take_apart(const uint8_t* block, int j, Piece& piece) {
  if constexpr (kind == PanelKind::q4_0 || kind == PanelKind::iq4_nl) {
    std::memcpy(piece.halves, block, 2);
    copy_nibbles(block + 2, piece.planes);
  } else if constexpr (kind == PanelKind::q4_1) {
    std::memcpy(piece.halves, block, 4);
    copy_nibbles(block + 4, piece.planes);
  } else if constexpr (kind == PanelKind::q5_0) {
    std::memcpy(piece.halves, block, 2);
    copy_nibbles(block + 6, piece.planes);
    piece.planes[4] = spread_bits(word(block + 2));
  } else if constexpr (kind == PanelKind::q5_1) {
    std::memcpy(piece.halves, block, 4);
    copy_nibbles(block + 8, piece.planes);
    piece.planes[4] = spread_bits(word(block + 4));
  } else if constexpr (kind == PanelKind::q8_0) {
    std::memcpy(piece.halves, block, 2);
    for (int c = 0; c < 8; ++c) piece.planes[c] = word(block + 2 + 4 * c) ^ 0x80808080;
  } else if constexpr (kind == PanelKind::mxfp4) {
    piece.scales[0] = block[0];
    copy_nibbles(block + 1, piece.planes);
  } else if constexpr (kind == PanelKind::iq4_xs) {
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(formats::IQ4_XS::scale(block, j) - 32);
    copy_nibbles(block + 8 + 16 * j, piece.planes);
  } else if constexpr (kind == PanelKind::q4_k || kind == PanelKind::q5_k) {
    constexpr bool kFifth = kind == PanelKind::q5_k;
    std::memcpy(piece.halves, block, 4);
    const formats::ScaleMin s = formats::scale_min_k4(block + 4, j);
    piece.scales[0] = static_cast<uint8_t>(s.scale);
    piece.scales[1] = static_cast<uint8_t>(s.minimum);
    gather_nibbles(block + (kFifth ? 48 : 16) + 32 * (j / 2), 4 * (j % 2), piece.planes);
    if constexpr (kFifth) piece.planes[4] = gather_bits(block + 16, j);
  } else if constexpr (kind == PanelKind::q6_k) {
    const int half = j / 4, quarter = j % 4;
    std::memcpy(piece.halves, block + 208, 2);
    std::memcpy(piece.scales, block + 192 + 2 * j, 2);
    gather_nibbles(block + 64 * half + 32 * (quarter % 2), 4 * (quarter / 2), piece.planes);
    gather_two_bits(block + 128 + 32 * half, 2 * quarter, piece.planes + 4);
  } else if constexpr (kind == PanelKind::q3_k) {
    std::memcpy(piece.halves, block + 108, 2);
    for (int g = 0; g < 2; ++g)
      piece.scales[g] = static_cast<uint8_t>(formats::Q3_K::scale(block + 96, 2 * j + g) - 32);
    gather_two_bits(block + 32 + 32 * (j / 4), 2 * (j % 4), piece.planes);
    piece.planes[2] = gather_bits(block, j);
  } else if constexpr (kind == PanelKind::q2_k) {
    std::memcpy(piece.halves, block + 80, 4);
    std::memcpy(piece.scales, block + 2 * j, 2);
    gather_two_bits(block + 16 + 32 * (j / 4), 2 * (j % 4), piece.planes);
  }
}

// A few instructions a word, so that packing runs at a good part of the memory's speed (docs/performance.md).
template <PanelKind kind>
void pack_int_panel(const ops::MatrixSource& source, int64_t first_row, uint8_t* panel) {
  constexpr Shape kShape = kShapes[static_cast<int>(kind)];
  constexpr int kVectors = 4 * kShape.nibbles + 2 * kShape.two_bits + kShape.one_bits + 8 * kShape.bytes;
  constexpr bool kByteScales = kShape.super > 1 || kind == PanelKind::mxfp4;
  constexpr int kHalves = (kShape.super > 1 ? kShape.head_bytes : kByteScales ? 0 : kShape.scale_bytes) / 32;
  const int64_t n_rows = std::min<int64_t>(kRows, source.n_rows - first_row), n_blocks = source.n_cols / 32;
  const int64_t row_bytes = source.format->row_bytes(source.n_cols);
  const int per_file_block = source.format->block_weights / 32;
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.bytes.data()) + first_row * row_bytes;
  if (n_rows < kRows) std::memset(panel, 0, static_cast<size_t>(panel_bytes(kind, source.n_cols)));
  uint8_t* head = nullptr;
  for (int64_t b = 0; b < n_blocks; ++b) {
    if (kShape.super > 1 && b % kShape.super == 0) {
      head = panel;
      panel += kShape.head_bytes;
    }
    uint8_t* halves = kShape.super > 1 ? head : panel;
    const int64_t file_block = b / per_file_block * source.format->block_bytes;
    const int j = static_cast<int>(b % per_file_block);
    for (int r = 0; r < n_rows; ++r) {
      Piece piece;
      take_apart<kind>(bytes + r * row_bytes + file_block, j, piece);
      for (int h = 0; h < kHalves; ++h) std::memcpy(halves + 32 * h + 2 * r, piece.halves + 2 * h, 2);
      if constexpr (kByteScales) {
        for (int s = 0; s < kShape.scale_bytes / 16; ++s) panel[16 * s + r] = piece.scales[s];
      }
      for (int v = 0; v < kVectors; ++v) std::memcpy(panel + kShape.scale_bytes + 64 * v + 4 * r, &piece.planes[v], 4);
    }
    panel += kShape.block_bytes();
  }
}

using IntPacker = void (*)(const ops::MatrixSource& source, int64_t first_row, uint8_t* panel);
template <int... kind>
constexpr std::array<IntPacker, sizeof...(kind)> packers(std::integer_sequence<int, kind...>) {
  return {pack_int_panel<static_cast<PanelKind>(kind)>...};
}
constexpr auto kIntPackers = packers(std::make_integer_sequence<int, kFirstFloatKind>());

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
  ops::Matrix m = ops::raw_matrix(source);
  PanelKind kind;
  if (keep_raw || !panel_kind(*source.format, kind)) return m;
  m.layout = ops::Layout::panels;
  m.panel_bytes = panel_bytes(kind, source.n_cols);
  const int64_t n_panels = (source.n_rows + kRows - 1) / kRows;
  const int64_t source_bytes = m.matrix_bytes;
  m.matrix_bytes = n_panels * m.panel_bytes;
  m.storage = Buffer(static_cast<size_t>(m.n_matrices * m.matrix_bytes), "A packed matrix");
  auto* out = m.storage.as<uint8_t>();
  pool.parallel_for(m.n_matrices * n_panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      ops::MatrixSource one = source;
      one.bytes = source.bytes.subspan(static_cast<size_t>(p / n_panels * source_bytes));
      if (static_cast<int>(kind) >= kFirstFloatKind)
        pack_float_panel(one, p % n_panels * kRows, out + p * m.panel_bytes);
      else
        kIntPackers[static_cast<size_t>(kind)](one, p % n_panels * kRows, out + p * m.panel_bytes);
    }
  });
  m.data = m.storage.data();
  return m;
}

}  // namespace halfbyte::cpu
