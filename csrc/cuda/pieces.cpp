// Takes file blocks of every format apart into codes and scales: the one place that knows them all.
#include <algorithm>
#include <cstring>

#include "cuda/pack.h"
#include "formats/codebooks.h"
#include "formats/iq1_s.h"
#include "formats/iq4_xs.h"
#include "formats/nvfp4.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"
#include "formats/q6_k.h"
#include "formats/tq1_0.h"

namespace halfbyte::cuda {

namespace {

using formats::load_u16;
using formats::load_u32;
using formats::TypeId;

// Signed magnitudes of the grids, so that a nibble can name each: IQ2 {8, 25, 43}, IQ3_XXS, IQ3_S odd numbers to 15.
constexpr Table kIq2Table = {{8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43, 0, 0, 0, 0, 0}, 0.125f};
constexpr Table kIq3xxsTable = {{4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62}, 0.25f};
constexpr Table kIq3sTable = {{1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15}, 1.0f};
// Eight times (grid + delta): grid -1, 0, 1; delta 1/8 in the first half, -1/8 in the second.
constexpr Table kIq1Table = {{-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7, 0, 0, 0, 0, 0}, 0.125f};

Table table_from(const int8_t (&values)[16]) {
  Table table = {{}, 1.0f};
  std::copy(std::begin(values), std::end(values), table.values);
  return table;
}

void nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) codes[i] = qs[i] & 15, codes[16 + i] = qs[i] >> 4;
}

void fifth_bits(uint32_t bits, uint8_t* codes) {
  for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(codes[e] | (bits >> e & 1) << 4);
}

// The table's index of a magnitude with a sign.
uint8_t named(const Table& table, int magnitude, bool is_negative) {
  for (uint8_t i = 0; i < 8; ++i) {
    if (table.values[i] == magnitude) return static_cast<uint8_t>(i + (is_negative ? 8 : 0));
  }
  return 0;
}

void signed_group(const Table& table, const uint8_t* grid, int n, unsigned signs, uint8_t* codes) {
  for (int i = 0; i < n; ++i) codes[i] = named(table, grid[i], (signs >> i & 1) != 0);
}

void grid_group(int index, bool is_delta_negative, uint8_t* codes) {
  const int8_t* grid = formats::kIq1Grid[index];
  for (int i = 0; i < 8; ++i) codes[i] = static_cast<uint8_t>(grid[i] + 1 + (is_delta_negative ? 8 : 0));
}

uint8_t odd(int s) {
  return static_cast<uint8_t>(2 * s + 1);
}

}  // namespace

bool kind_of(const formats::Format& format, Kind& kind) {
  switch (format.id) {
    case TypeId::q4_0:
      return kind = Kind::q4_0, true;
    case TypeId::q4_1:
      return kind = Kind::q4_1, true;
    case TypeId::q5_0:
      return kind = Kind::q5_0, true;
    case TypeId::q5_1:
      return kind = Kind::q5_1, true;
    case TypeId::q8_0:
      return kind = Kind::q8_0, true;
    case TypeId::iq4_nl:
      return kind = Kind::table, true;
    case TypeId::mxfp4:
      return kind = Kind::table_e8m0, true;
    case TypeId::nvfp4:
      return kind = Kind::table_half16, true;
    case TypeId::iq4_xs:
    case TypeId::iq2_xxs:
    case TypeId::iq3_xxs:
    case TypeId::iq3_s:
    case TypeId::iq1_s:
      return kind = Kind::table_super, true;
    case TypeId::iq2_xs:
    case TypeId::iq2_s:
    case TypeId::iq1_m:
      return kind = Kind::table_super16, true;
    case TypeId::q2_k:
      return kind = Kind::q2_k, true;
    case TypeId::q3_k:
      return kind = Kind::q3_k, true;
    case TypeId::q4_k:
      return kind = Kind::q4_k, true;
    case TypeId::q5_k:
      return kind = Kind::q5_k, true;
    case TypeId::q6_k:
      return kind = Kind::q6_k, true;
    case TypeId::tq1_0:
    case TypeId::tq2_0:
    case TypeId::q1_0:
    case TypeId::q2_0:
      return kind = Kind::ternary, true;
    case TypeId::f16:
      return kind = Kind::f16, true;
    case TypeId::bf16:
      return kind = Kind::bf16, true;
    case TypeId::f32:
      return kind = Kind::f32, true;
    default:
      return false;
  }
}

const Table& table_of(const formats::Format& format) {
  static const Table iq4 = table_from(formats::kIq4Values), fp4 = table_from(formats::kFp4Values), none = {};
  switch (format.id) {
    case TypeId::iq4_nl:
    case TypeId::iq4_xs:
      return iq4;
    case TypeId::mxfp4:
    case TypeId::nvfp4:
      return fp4;
    case TypeId::iq2_xxs:
    case TypeId::iq2_xs:
    case TypeId::iq2_s:
      return kIq2Table;
    case TypeId::iq3_xxs:
      return kIq3xxsTable;
    case TypeId::iq3_s:
      return kIq3sTable;
    case TypeId::iq1_s:
    case TypeId::iq1_m:
      return kIq1Table;
    default:
      return none;
  }
}

void take_apart(const formats::Format& format, const uint8_t* b, int j, Piece& p) {
  switch (format.id) {
    case TypeId::q4_0:
    case TypeId::iq4_nl:
      p.halves[0] = load_u16(b);
      return nibbles(b + 2, p.codes);
    case TypeId::q4_1:
      p.halves[0] = load_u16(b), p.halves[1] = load_u16(b + 2);
      return nibbles(b + 4, p.codes);
    case TypeId::q5_0:
      p.halves[0] = load_u16(b);
      nibbles(b + 6, p.codes);
      return fifth_bits(load_u32(b + 2), p.codes);
    case TypeId::q5_1:
      p.halves[0] = load_u16(b), p.halves[1] = load_u16(b + 2);
      nibbles(b + 8, p.codes);
      return fifth_bits(load_u32(b + 4), p.codes);
    case TypeId::q8_0:
      p.halves[0] = load_u16(b);
      std::memcpy(p.codes, b + 2, 32);
      return;
    case TypeId::mxfp4:
      p.scales[0] = b[0];
      return nibbles(b + 1, p.codes);
    case TypeId::nvfp4:
      for (int h = 0; h < 2; ++h) {
        const int s = 2 * j + h;
        p.half_scales[h] = f32_to_f16(formats::ue4m3(b[s]) * 0.5f);
        for (int i = 0; i < 16; ++i) p.codes[16 * h + i] = b[4 + 8 * s + i % 8] >> 4 * (i / 8) & 15;
      }
      return;
    case TypeId::iq4_xs:
      p.halves[0] = load_u16(b);
      p.scales[0] = static_cast<uint8_t>(formats::IQ4_XS::scale(b, j) - 32);
      return nibbles(b + 8 + 16 * j, p.codes);
    case TypeId::q4_k:
    case TypeId::q5_k: {
      const bool has_fifth = format.id == TypeId::q5_k;
      p.halves[0] = load_u16(b), p.halves[1] = load_u16(b + 2);
      std::memcpy(p.packed6, b + 4, 12);
      const uint8_t* qs = b + (has_fifth ? 48 : 16) + 32 * (j / 2);
      for (int e = 0; e < 32; ++e) {
        p.codes[e] = qs[e] >> 4 * (j % 2) & 15;
        if (has_fifth) p.codes[e] = static_cast<uint8_t>(p.codes[e] | (b[16 + e] >> j & 1) << 4);
      }
      return;
    }
    case TypeId::q6_k:
      p.halves[0] = load_u16(b + 208);
      std::memcpy(p.scales, b + 192 + 2 * j, 2);
      for (int e = 0; e < 32; ++e) p.codes[e] = static_cast<uint8_t>(formats::Q6_K::code(b, 32 * j + e));
      return;
    case TypeId::q3_k:
      p.halves[0] = load_u16(b + 108);
      for (int h = 0; h < 2; ++h) p.scales[h] = static_cast<uint8_t>(formats::Q3_K::scale(b + 96, 2 * j + h) - 32);
      for (int e = 0; e < 32; ++e)
        p.codes[e] = static_cast<uint8_t>((b[32 + 32 * (j / 4) + e] >> 2 * (j % 4) & 3) | (b[e] >> j & 1) << 2);
      return;
    case TypeId::q2_k:
      p.halves[0] = load_u16(b + 80), p.halves[1] = load_u16(b + 82);
      for (int h = 0; h < 2; ++h) p.scales[h] = b[2 * j + h] & 15, p.minimums[h] = b[2 * j + h] >> 4;
      for (int e = 0; e < 32; ++e) p.codes[e] = b[16 + 32 * (j / 4) + e] >> 2 * (j % 4) & 3;
      return;
    case TypeId::iq2_xxs: {
      const uint32_t s = load_u32(b + 2 + 8 * j + 4);
      p.halves[0] = load_u16(b);
      p.scales[0] = odd(static_cast<int>(s >> 28));
      for (int l = 0; l < 4; ++l)
        signed_group(kIq2Table, formats::kIq2xxsGrid[b[2 + 8 * j + l]], 8, formats::expand_sign7(s >> 7 * l & 127),
                     p.codes + 8 * l);
      return;
    }
    case TypeId::iq2_xs:
    case TypeId::iq2_s: {
      const bool is_s = format.id == TypeId::iq2_s;
      const uint8_t scales = b[(is_s ? 74 : 66) + j];
      p.halves[0] = load_u16(b);
      p.scales[0] = odd(scales & 15), p.scales[1] = odd(scales >> 4);
      for (int l = 0; l < 4; ++l) {
        const int g = 4 * j + l;
        const uint16_t v = load_u16(b + 2 + 2 * g);
        if (is_s)
          signed_group(kIq2Table, formats::kIq2sGrid[b[2 + g] | (b[66 + j] >> 2 * l & 3) << 8], 8, b[34 + g],
                       p.codes + 8 * l);
        else
          signed_group(kIq2Table, formats::kIq2xsGrid[v & 511], 8, formats::expand_sign7(v >> 9), p.codes + 8 * l);
      }
      return;
    }
    case TypeId::iq3_xxs: {
      const uint32_t s = load_u32(b + 66 + 4 * j);
      p.halves[0] = load_u16(b);
      p.scales[0] = odd(static_cast<int>(s >> 28));
      for (int l = 0; l < 8; ++l) {
        const unsigned signs = formats::expand_sign7(s >> 7 * (l / 2) & 127);
        signed_group(kIq3xxsTable, formats::kIq3xxsGrid[b[2 + 8 * j + l]], 4, signs >> 4 * (l % 2), p.codes + 4 * l);
      }
      return;
    }
    case TypeId::iq3_s:
      p.halves[0] = load_u16(b);
      p.scales[0] = odd(b[106 + j / 2] >> 4 * (j % 2) & 15);
      for (int l = 0; l < 8; ++l) {
        const int g = 8 * j + l;
        signed_group(kIq3sTable, formats::kIq3sGrid[b[2 + g] | (b[66 + j] >> l & 1) << 8], 4,
                     b[74 + g / 2] >> 4 * (g % 2), p.codes + 4 * l);
      }
      return;
    case TypeId::iq1_s: {
      const uint16_t q = load_u16(b + 34 + 2 * j);
      p.halves[0] = load_u16(b);
      p.scales[0] = odd(q >> 12 & 7);
      for (int l = 0; l < 4; ++l)
        grid_group(b[2 + 4 * j + l] | (q >> 3 * l & 7) << 8, (q & 0x8000) != 0, p.codes + 8 * l);
      return;
    }
    case TypeId::iq1_m: {
      for (int i = 0; i < 4; ++i)
        p.halves[0] = static_cast<uint16_t>(p.halves[0] | (load_u16(b + 48 + 2 * i) >> 12) << 4 * i);
      const uint16_t s = load_u16(b + 48 + 2 * (j / 2));
      for (int h = 0; h < 2; ++h) p.scales[h] = odd(s >> (6 * (j % 2) + 3 * h) & 7);
      for (int l = 0; l < 4; ++l) {
        const int g = 4 * j + l, n = b[32 + g / 2] >> 4 * (g % 2) & 15;
        grid_group(b[g] | (n & 7) << 8, (n & 8) != 0, p.codes + 8 * l);
      }
      return;
    }
    case TypeId::tq1_0:
      p.halves[0] = load_u16(b + 52);
      for (int i = 0; i < 32; ++i) {
        const int e = 32 * j + i;
        const int trit = e < 160   ? formats::TQ1_0::trit(b[e % 32], e / 32)
                         : e < 240 ? formats::TQ1_0::trit(b[32 + (e - 160) % 16], (e - 160) / 16)
                                   : formats::TQ1_0::trit(b[48 + (e - 240) % 4], (e - 240) / 4);
        p.codes[i] = static_cast<uint8_t>(trit + 1);
      }
      return;
    case TypeId::tq2_0:
      p.halves[0] = load_u16(b + 64);
      for (int e = 0; e < 32; ++e) p.codes[e] = b[32 * (j / 4) + e] >> 2 * (j % 4) & 3;
      return;
    case TypeId::q1_0:
      p.halves[0] = load_u16(b);
      for (int e = 0; e < 32; ++e) p.codes[e] = (b[2 + 4 * j + e / 8] >> e % 8 & 1) != 0 ? 2 : 0;
      return;
    case TypeId::q2_0:
      p.halves[0] = load_u16(b);
      for (int e = 0; e < 32; ++e) p.codes[e] = b[2 + 8 * j + e / 4] >> 2 * (e % 4) & 3;
      return;
    default:
      return;
  }
}

}  // namespace halfbyte::cuda
