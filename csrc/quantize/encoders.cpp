// Cuts rows into tiles of sixteen blocks and hands them to the encoder of their format.
#include "quantize/encoders.h"

#include "base/cpu_level.h"

namespace halfbyte::quantize {

namespace {

struct Entry {
  formats::TypeId id;
  const TileEncoder* encoder;
};

using formats::TypeId;
constexpr Entry kEncoders[] = {
    {TypeId::q4_0, &q4_0},       {TypeId::q4_1, &q4_1},     {TypeId::q5_0, &q5_0},     {TypeId::q5_1, &q5_1},
    {TypeId::q8_0, &q8_0},       {TypeId::q2_k, &q2_k},     {TypeId::q3_k, &q3_k},     {TypeId::q4_k, &q4_k},
    {TypeId::q5_k, &q5_k},       {TypeId::q6_k, &q6_k},     {TypeId::iq1_s, &iq1_s},   {TypeId::iq1_m, &iq1_m},
    {TypeId::iq2_xxs, &iq2_xxs}, {TypeId::iq2_xs, &iq2_xs}, {TypeId::iq2_s, &iq2_s},   {TypeId::iq3_xxs, &iq3_xxs},
    {TypeId::iq3_s, &iq3_s},     {TypeId::iq4_nl, &iq4_nl}, {TypeId::iq4_xs, &iq4_xs}, {TypeId::tq1_0, &tq1_0},
    {TypeId::tq2_0, &tq2_0},     {TypeId::mxfp4, &mxfp4},
};

const TileEncoder* encoder_of(TypeId id) {
  for (const Entry& entry : kEncoders) {
    if (entry.id == id) return entry.encoder;
  }
  return nullptr;
}

// Floats need no search: the format's own encode is exact rounding.
bool is_float(const formats::Format& format) {
  return format.block_weights == 1 && format.encode != nullptr;
}

auto build_for_this_cpu(const TileEncoder& encoder) {
  const CpuLevel level = cpu_level();
  return level >= CpuLevel::avx512 ? encoder.avx512 : level >= CpuLevel::avx2 ? encoder.avx2 : encoder.narrow;
}

}  // namespace

bool can_encode(const formats::Format& format) {
  return is_float(format) || encoder_of(format.id) != nullptr;
}

void encode_rows(const formats::Format& format, const float* weights, int64_t n_rows, int64_t n_cols,
                 const float* importance, std::byte* out) {
  const int64_t width = format.block_weights, n_blocks = n_rows * (n_cols / width);
  if (is_float(format)) {
    format.encode(weights, out, n_blocks);
    return;
  }
  const auto encode = build_for_this_cpu(*encoder_of(format.id));
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
  uint8_t spare[512];  // where the lanes past the last block go
  Blocks blocks = {static_cast<int>(width), {}, {}};
  for (int64_t first = 0, column = 0; first < n_blocks; first += kLanes) {
    uint8_t* encoded[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool used = first + lane < n_blocks;
      const int64_t block = used ? first + lane : first;
      blocks.x[lane] = weights + block * width;
      if (importance != nullptr) blocks.importance[lane] = importance + column;
      encoded[lane] = used ? bytes + block * format.block_bytes : spare;
      column = column + width < n_cols ? column + width : 0;
    }
    encode(blocks, encoded);
  }
}

}  // namespace halfbyte::quantize
