// Packs 16 rows at a time into the layouts of ops/packed.h. Plain C++, four bytes at a time.
#include "cpu/pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/codebooks.h"
#include "formats/iq4_xs.h"
#include "formats/nvfp4.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"
#include "formats/tq1_0.h"

namespace halfbyte::cpu {

namespace {

using formats::TypeId;

constexpr int kRows = kPanelRows;

// File formats and the family whose panels hold them without loss.
constexpr struct {
  TypeId type;
  PanelKind kind;
} kFamilies[] = {
    {TypeId::q4_0, PanelKind::q4_0},
    {TypeId::q4_1, PanelKind::q4_1},
    {TypeId::q5_0, PanelKind::q5_0},
    {TypeId::q5_1, PanelKind::q5_1},
    {TypeId::q8_0, PanelKind::q8_0},
    {TypeId::iq4_nl, PanelKind::iq4_nl},
    {TypeId::mxfp4, PanelKind::mxfp4},
    {TypeId::iq4_xs, PanelKind::iq4_xs},
    {TypeId::q4_k, PanelKind::q4_k},
    {TypeId::q5_k, PanelKind::q5_k},
    {TypeId::q6_k, PanelKind::q6_k},
    {TypeId::q3_k, PanelKind::q3_k},
    {TypeId::q2_k, PanelKind::q2_k},
    {TypeId::nvfp4, PanelKind::nvfp4},
    {TypeId::iq1_s, PanelKind::table3},
    {TypeId::iq2_xxs, PanelKind::table3},
    {TypeId::iq1_m, PanelKind::table3_two_scales},
    {TypeId::iq2_xs, PanelKind::table3_two_scales},
    {TypeId::iq2_s, PanelKind::table3_two_scales},
    {TypeId::iq3_xxs, PanelKind::table4},
    {TypeId::iq3_s, PanelKind::table4},
    {TypeId::tq1_0, PanelKind::ternary},
    {TypeId::tq2_0, PanelKind::ternary},
    {TypeId::q2_0, PanelKind::q2_0},
    {TypeId::q1_0, PanelKind::q1_0},
    {TypeId::f32, PanelKind::f32},
    {TypeId::f16, PanelKind::f16},
    {TypeId::bf16, PanelKind::bf16},
};
constexpr int kFloatFormats = 3;  // the last ones
constexpr int kIntFormats = static_cast<int>(std::size(kFamilies)) - kFloatFormats;

// The format's place in kFamilies, or -1.
constexpr int family(TypeId type) {
  for (int i = 0; i < static_cast<int>(std::size(kFamilies)); ++i) {
    if (kFamilies[i].type == type) return i;
  }
  return -1;
}

constexpr PanelKind kind_of(TypeId type) {
  return kFamilies[family(type)].kind;
}

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
    {.scale_bytes = 64, .nibbles = 1},                                                // nvfp4
    {.super = 8, .head_bytes = 48, .scale_bytes = 16, .two_bits = 1, .one_bits = 1},  // table3
    {.super = 8, .head_bytes = 48, .scale_bytes = 32, .two_bits = 1, .one_bits = 1},  // table3_two_scales
    {.super = 8, .head_bytes = 48, .scale_bytes = 16, .nibbles = 1},                  // table4
    {.super = 8, .head_bytes = 32, .two_bits = 1},                                    // ternary
    {.super = 2, .head_bytes = 32, .two_bits = 1},                                    // q2_0
    {.super = 4, .head_bytes = 32, .one_bits = 1},                                    // q1_0
};
static_assert(std::size(kShapes) == kFirstFloatKind);

// Tables of the codebook formats, indexed by 2 (3) bits of magnitude and a sign above them; 43 (62) added.
constexpr uint8_t kIq1Table[16] = {36, 44, 52, 0, 34, 42, 50, 0};  // 8 g + 1, then 8 g - 1
constexpr uint8_t kIq2Table[16] = {51, 68, 86, 0, 35, 18, 0, 0};
constexpr uint8_t kIq3xxsTable[16] = {66, 74, 82, 90, 98, 106, 114, 124, 58, 50, 42, 34, 26, 18, 10, 0};
constexpr uint8_t kIq3sTable[16] = {66, 74, 82, 90, 98, 106, 114, 122, 58, 50, 42, 34, 26, 18, 10, 2};

constexpr const uint8_t* table_of(TypeId type) {
  switch (type) {
    case TypeId::iq1_s:
    case TypeId::iq1_m:
      return kIq1Table;
    case TypeId::iq2_xxs:
    case TypeId::iq2_xs:
    case TypeId::iq2_s:
      return kIq2Table;
    case TypeId::iq3_xxs:
      return kIq3xxsTable;
    case TypeId::iq3_s:
      return kIq3sTable;
    default:
      return nullptr;
  }
}

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

// Four bits as the lowest bits of four bytes.
uint32_t spread4(uint32_t bits) {
  return (bits & 15) * 0x00204081 & 0x01010101;
}

// From 32 bits in order: bits 4c .. 4c + 3 become bit c of four bytes.
uint32_t spread_bits(uint32_t bits) {
  uint32_t plane = 0;
  for (int c = 0; c < 8; ++c) plane |= spread4(bits >> 4 * c) << c;
  return plane;
}

// Eight columns of a 3-bit family: two words of magnitudes' indices, and their sign (or delta) bits.
void put_table3(int g, uint32_t low, uint32_t high, uint32_t signs, uint32_t* planes) {
  planes[g / 2] |= low << 4 * (g % 2) | high << (4 * (g % 2) + 2);
  planes[2] |= spread4(signs) << 2 * g | spread4(signs >> 4) << (2 * g + 1);
}

// The same of kIq2 grids, whose magnitudes 8, 25 and 43 have the indices 0, 1, 2 in their high nibbles.
void put_iq2(int g, const uint8_t* grid, uint32_t signs, uint32_t* planes) {
  put_table3(g, word(grid) >> 4 & 0x03030303, word(grid + 4) >> 4 & 0x03030303, signs, planes);
}

void put_iq1(int g, const int8_t* grid, bool negative, uint32_t* planes) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(grid);
  // -1, 0, 1 as bytes plus one, without a carry between bytes.
  const auto indices = [](uint32_t x) { return ((x & 0x03030303) + 0x01010101) & 0x03030303; };
  put_table3(g, indices(word(bytes)), indices(word(bytes + 4)), negative ? 255 : 0, planes);
}

// Four columns of a 4-bit family: 3-bit indices and signs, unit c of the block.
void put_table4(int c, uint32_t indices, uint32_t signs, uint32_t* planes) {
  planes[c % 4] |= (indices | spread4(signs) << 3) << 4 * (c / 4);
}

// Row block `block`, its 32 columns number j.
template <TypeId type>
void take_apart(const uint8_t* block, int j, Piece& piece) {
  if constexpr (type == TypeId::q4_0 || type == TypeId::iq4_nl) {
    std::memcpy(piece.halves, block, 2);
    copy_nibbles(block + 2, piece.planes);
  } else if constexpr (type == TypeId::q4_1) {
    std::memcpy(piece.halves, block, 4);
    copy_nibbles(block + 4, piece.planes);
  } else if constexpr (type == TypeId::q5_0) {
    std::memcpy(piece.halves, block, 2);
    copy_nibbles(block + 6, piece.planes);
    piece.planes[4] = spread_bits(word(block + 2));
  } else if constexpr (type == TypeId::q5_1) {
    std::memcpy(piece.halves, block, 4);
    copy_nibbles(block + 8, piece.planes);
    piece.planes[4] = spread_bits(word(block + 4));
  } else if constexpr (type == TypeId::q8_0) {
    std::memcpy(piece.halves, block, 2);
    for (int c = 0; c < 8; ++c) piece.planes[c] = word(block + 2 + 4 * c) ^ 0x80808080;
  } else if constexpr (type == TypeId::mxfp4) {
    piece.scales[0] = block[0];
    copy_nibbles(block + 1, piece.planes);
  } else if constexpr (type == TypeId::iq4_xs) {
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(formats::IQ4_XS::scale(block, j) - 32);
    copy_nibbles(block + 8 + 16 * j, piece.planes);
  } else if constexpr (type == TypeId::q4_k || type == TypeId::q5_k) {
    constexpr bool kFifth = type == TypeId::q5_k;
    std::memcpy(piece.halves, block, 4);
    const formats::ScaleMin s = formats::scale_min_k4(block + 4, j);
    piece.scales[0] = static_cast<uint8_t>(s.scale);
    piece.scales[1] = static_cast<uint8_t>(s.minimum);
    gather_nibbles(block + (kFifth ? 48 : 16) + 32 * (j / 2), 4 * (j % 2), piece.planes);
    if constexpr (kFifth) piece.planes[4] = gather_bits(block + 16, j);
  } else if constexpr (type == TypeId::q6_k) {
    const int half = j / 4, quarter = j % 4;
    std::memcpy(piece.halves, block + 208, 2);
    std::memcpy(piece.scales, block + 192 + 2 * j, 2);
    gather_nibbles(block + 64 * half + 32 * (quarter % 2), 4 * (quarter / 2), piece.planes);
    gather_two_bits(block + 128 + 32 * half, 2 * quarter, piece.planes + 4);
  } else if constexpr (type == TypeId::q3_k) {
    std::memcpy(piece.halves, block + 108, 2);
    for (int g = 0; g < 2; ++g)
      piece.scales[g] = static_cast<uint8_t>(formats::Q3_K::scale(block + 96, 2 * j + g) - 32);
    gather_two_bits(block + 32 + 32 * (j / 4), 2 * (j % 4), piece.planes);
    piece.planes[2] = gather_bits(block, j);
  } else if constexpr (type == TypeId::q2_k) {
    std::memcpy(piece.halves, block + 80, 4);
    std::memcpy(piece.scales, block + 2 * j, 2);
    gather_two_bits(block + 16 + 32 * (j / 4), 2 * (j % 4), piece.planes);
  } else if constexpr (type == TypeId::nvfp4) {
    for (int g = 0; g < 2; ++g) {
      const uint8_t* qs = block + 4 + 8 * (2 * j + g);
      const uint16_t half = f32_to_f16(formats::ue4m3(block[2 * j + g]) * 0.5f);
      std::memcpy(piece.halves + 2 * g, &half, 2);
      for (int v = 0; v < 4; ++v) {
        const uint32_t unit = word(qs + 4 * (v % 2)) >> 4 * (v / 2) & 0x0f0f0f0f;
        piece.planes[v] = g == 0 ? unit : piece.planes[v] | unit << 4;
      }
    }
  } else if constexpr (type == TypeId::iq1_s) {
    const uint16_t q = formats::load_u16(block + 34 + 2 * j);
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(2 * (q >> 12 & 7) + 1);
    for (int g = 0; g < 4; ++g)
      put_iq1(g, formats::kIq1Grid[block[2 + 4 * j + g] | (q >> 3 * g & 7) << 8], (q & 0x8000) != 0, piece.planes);
  } else if constexpr (type == TypeId::iq1_m) {
    for (int h = 0; h < 2; ++h)
      piece.halves[h] = static_cast<uint8_t>(block[49 + 4 * h] >> 4 | (block[51 + 4 * h] & 0xf0));
    const uint16_t s = formats::load_u16(block + 48 + 2 * (j / 2));
    for (int g = 0; g < 2; ++g) piece.scales[g] = static_cast<uint8_t>(2 * (s >> (6 * (j % 2) + 3 * g) & 7) + 1);
    for (int g = 0; g < 4; ++g) {
      const int n = block[32 + 2 * j + g / 2] >> 4 * (g % 2) & 15;
      put_iq1(g, formats::kIq1Grid[block[4 * j + g] | (n & 7) << 8], (n & 8) != 0, piece.planes);
    }
  } else if constexpr (type == TypeId::iq2_xxs) {
    const uint32_t s = word(block + 2 + 8 * j + 4);
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(2 * (s >> 28) + 1);
    for (int g = 0; g < 4; ++g)
      put_iq2(g, formats::kIq2xxsGrid[block[2 + 8 * j + g]], formats::expand_sign7(s >> 7 * g & 127), piece.planes);
  } else if constexpr (type == TypeId::iq2_xs) {
    std::memcpy(piece.halves, block, 2);
    for (int g = 0; g < 2; ++g) piece.scales[g] = static_cast<uint8_t>(2 * (block[66 + j] >> 4 * g & 15) + 1);
    for (int g = 0; g < 4; ++g) {
      const uint16_t v = formats::load_u16(block + 2 + 2 * (4 * j + g));
      put_iq2(g, formats::kIq2xsGrid[v & 511], formats::expand_sign7(v >> 9), piece.planes);
    }
  } else if constexpr (type == TypeId::iq2_s) {
    std::memcpy(piece.halves, block, 2);
    for (int g = 0; g < 2; ++g) piece.scales[g] = static_cast<uint8_t>(2 * (block[74 + j] >> 4 * g & 15) + 1);
    for (int g = 0; g < 4; ++g) {
      const int index = block[2 + 4 * j + g] | (block[66 + j] >> 2 * g & 3) << 8;
      put_iq2(g, formats::kIq2sGrid[index], block[34 + 4 * j + g], piece.planes);
    }
  } else if constexpr (type == TypeId::iq3_xxs) {
    const uint32_t s = word(block + 66 + 4 * j);
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(2 * (s >> 28) + 1);
    for (int c = 0; c < 8; ++c) {
      const uint32_t indices = word(formats::kIq3xxsGrid[block[2 + 8 * j + c]]) >> 3 & 0x07070707;
      put_table4(c, indices, formats::expand_sign7(s >> 7 * (c / 2) & 127) >> 4 * (c % 2), piece.planes);
    }
  } else if constexpr (type == TypeId::iq3_s) {
    std::memcpy(piece.halves, block, 2);
    piece.scales[0] = static_cast<uint8_t>(2 * (block[106 + j / 2] >> 4 * (j % 2) & 15) + 1);
    for (int c = 0; c < 8; ++c) {
      const int index = block[2 + 8 * j + c] | (block[66 + j] >> c & 1) << 8;
      const uint32_t indices = word(formats::kIq3sGrid[index]) >> 1 & 0x07070707;
      put_table4(c, indices, static_cast<uint32_t>(block[74 + 4 * j + c / 2]) >> 4 * (c % 2), piece.planes);
    }
  } else if constexpr (type == TypeId::tq1_0) {
    std::memcpy(piece.halves, block + 52, 2);
    uint8_t codes[32];
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(formats::TQ1_0::trit_at(block, 32 * j + i) + 1);
    gather_two_bits(codes, 0, piece.planes);
  } else if constexpr (type == TypeId::tq2_0) {
    std::memcpy(piece.halves, block + 64, 2);
    gather_two_bits(block + 32 * (j / 4), 2 * (j % 4), piece.planes);
  } else if constexpr (type == TypeId::q2_0) {
    std::memcpy(piece.halves, block, 2);
    // A byte has a unit's four columns: two bits each go to a byte each.
    for (int c = 0; c < 8; ++c) {
      const uint32_t b = block[2 + 8 * j + c];
      piece.planes[c / 4] |= (b & 3) * 1u << 2 * (c % 4) | (b >> 2 & 3) << (8 + 2 * (c % 4)) |
                             (b >> 4 & 3) << (16 + 2 * (c % 4)) | (b >> 6) << (24 + 2 * (c % 4));
    }
  } else if constexpr (type == TypeId::q1_0) {
    std::memcpy(piece.halves, block, 2);
    piece.planes[0] = spread_bits(word(block + 2 + 4 * j));
  }
}

// A few instructions a word, so that packing runs at a good part of the memory's speed (docs/performance.md).
template <TypeId type>
void pack_int_panel(const ops::MatrixSource& source, int64_t first_row, uint8_t* panel) {
  constexpr PanelKind kind = kind_of(type);
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
      if constexpr (table_of(type) != nullptr) std::memcpy(head + 32, table_of(type), 16);
    }
    uint8_t* halves = kShape.super > 1 ? head : panel;
    const int64_t file_block = b / per_file_block * source.format->block_bytes;
    const int j = static_cast<int>(b % per_file_block);
    for (int r = 0; r < n_rows; ++r) {
      Piece piece = {};
      take_apart<type>(bytes + r * row_bytes + file_block, j, piece);
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
template <size_t... i>
constexpr std::array<IntPacker, sizeof...(i)> packers(std::index_sequence<i...>) {
  return {pack_int_panel<kFamilies[i].type>...};
}
constexpr auto kIntPackers = packers(std::make_index_sequence<kIntFormats>());

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
  const int i = family(format.id);
  if (i >= 0) kind = kFamilies[i].kind;
  return i >= 0;
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
        kIntPackers[static_cast<size_t>(family(source.format->id))](one, p % n_panels * kRows, out + p * m.panel_bytes);
    }
  });
  m.data = m.storage.data();
  return m;
}

}  // namespace halfbyte::cpu
