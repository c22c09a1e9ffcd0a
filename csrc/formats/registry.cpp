// The list itself: one line a format.
#include "formats/registry.h"

#include <array>
#include <cctype>

#include "base/error.h"
#include "formats/bf16.h"
#include "formats/f16.h"
#include "formats/f32.h"
#include "formats/iq1_m.h"
#include "formats/iq1_s.h"
#include "formats/iq2_s.h"
#include "formats/iq2_xs.h"
#include "formats/iq2_xxs.h"
#include "formats/iq3_s.h"
#include "formats/iq3_xxs.h"
#include "formats/iq4_nl.h"
#include "formats/iq4_xs.h"
#include "formats/mxfp4.h"
#include "formats/nvfp4.h"
#include "formats/plain.h"
#include "formats/q1_0.h"
#include "formats/q2_0.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q4_k.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q5_k.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"
#include "formats/q8_1.h"
#include "formats/q8_k.h"
#include "formats/tq1_0.h"
#include "formats/tq2_0.h"

namespace halfbyte::formats {

namespace {

template <class Block>
constexpr Format decode_only(TypeId id, std::string_view name) {
  return {id, name, Block::kWeights, sizeof(Block), decode_blocks<Block>, nullptr, 0.0};
}

template <class Block>
constexpr Format both_ways(TypeId id, std::string_view name, double max_rmse) {
  return {id, name, Block::kWeights, sizeof(Block), decode_blocks<Block>, encode_blocks<Block>, max_rmse};
}

constexpr Format kFormats[] = {
    both_ways<F32>(TypeId::f32, "F32", 0.0),
    both_ways<F16>(TypeId::f16, "F16", 3e-4),
    both_ways<Q4_0>(TypeId::q4_0, "Q4_0", 0.095),
    both_ways<Q4_1>(TypeId::q4_1, "Q4_1", 0.085),
    both_ways<Q5_0>(TypeId::q5_0, "Q5_0", 0.048),
    both_ways<Q5_1>(TypeId::q5_1, "Q5_1", 0.042),
    both_ways<Q8_0>(TypeId::q8_0, "Q8_0", 0.006),
    decode_only<Q8_1>(TypeId::q8_1, "Q8_1"),
    decode_only<Q2_K>(TypeId::q2_k, "Q2_K"),
    decode_only<Q3_K>(TypeId::q3_k, "Q3_K"),
    decode_only<Q4_K>(TypeId::q4_k, "Q4_K"),
    decode_only<Q5_K>(TypeId::q5_k, "Q5_K"),
    decode_only<Q6_K>(TypeId::q6_k, "Q6_K"),
    decode_only<Q8_K>(TypeId::q8_k, "Q8_K"),
    decode_only<IQ2_XXS>(TypeId::iq2_xxs, "IQ2_XXS"),
    decode_only<IQ2_XS>(TypeId::iq2_xs, "IQ2_XS"),
    decode_only<IQ3_XXS>(TypeId::iq3_xxs, "IQ3_XXS"),
    decode_only<IQ1_S>(TypeId::iq1_s, "IQ1_S"),
    decode_only<IQ4_NL>(TypeId::iq4_nl, "IQ4_NL"),
    decode_only<IQ3_S>(TypeId::iq3_s, "IQ3_S"),
    decode_only<IQ2_S>(TypeId::iq2_s, "IQ2_S"),
    decode_only<IQ4_XS>(TypeId::iq4_xs, "IQ4_XS"),
    decode_only<I8>(TypeId::i8, "I8"),
    decode_only<I16>(TypeId::i16, "I16"),
    decode_only<I32>(TypeId::i32, "I32"),
    decode_only<I64>(TypeId::i64, "I64"),
    decode_only<F64>(TypeId::f64, "F64"),
    decode_only<IQ1_M>(TypeId::iq1_m, "IQ1_M"),
    both_ways<BF16>(TypeId::bf16, "BF16", 2.5e-3),
    decode_only<TQ1_0>(TypeId::tq1_0, "TQ1_0"),
    decode_only<TQ2_0>(TypeId::tq2_0, "TQ2_0"),
    decode_only<MXFP4>(TypeId::mxfp4, "MXFP4"),
    decode_only<NVFP4>(TypeId::nvfp4, "NVFP4"),
    decode_only<Q1_0>(TypeId::q1_0, "Q1_0"),
    decode_only<Q2_0>(TypeId::q2_0, "Q2_0"),
};

// Row of kFormats by file id; -1 for retired and unknown ids.
constexpr auto kById = [] {
  std::array<int8_t, 43> rows{};
  rows.fill(-1);
  for (size_t i = 0; i < std::size(kFormats); ++i) rows[static_cast<size_t>(kFormats[i].id)] = static_cast<int8_t>(i);
  return rows;
}();

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::toupper(static_cast<unsigned char>(a[i])) != std::toupper(static_cast<unsigned char>(b[i]))) return false;
  }
  return true;
}

}  // namespace

std::span<const Format> all_formats() {
  return kFormats;
}

const Format* find_format(uint32_t id) {
  if (id >= kById.size() || kById[id] < 0) return nullptr;
  return &kFormats[static_cast<size_t>(kById[id])];
}

const Format* find_format(std::string_view name) {
  for (const Format& format : kFormats) {
    if (equal_ignoring_case(format.name, name)) return &format;
  }
  return nullptr;
}

const Format& format_of(TypeId id) {
  const Format* format = find_format(static_cast<uint32_t>(id));
  require(format != nullptr, "There is no block format with id %u.", static_cast<unsigned>(id));
  return *format;
}

}  // namespace halfbyte::formats
