// Cuts rows into tiles of sixteen blocks and hands them to the encoder of their format.
#include "quantize/encoders.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

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

// The block of each lane -> row i holds number i of all lanes. Four by four, in registers.
void lay_across(const float* const* lanes, int64_t n, float (*rows)[kLanes]) {
  for (int lane = 0; lane < kLanes; lane += 4) {
    for (int64_t i = 0; i < n; i += 4) {
      Float4 a = load<Float4>(lanes[lane] + i), b = load<Float4>(lanes[lane + 1] + i);
      Float4 c = load<Float4>(lanes[lane + 2] + i), d = load<Float4>(lanes[lane + 3] + i);
      const Float4 ab_lo = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_hi = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Float4 cd_lo = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_hi = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      store(&rows[i][lane], __builtin_shufflevector(ab_lo, cd_lo, 0, 1, 4, 5));
      store(&rows[i + 1][lane], __builtin_shufflevector(ab_lo, cd_lo, 2, 3, 6, 7));
      store(&rows[i + 2][lane], __builtin_shufflevector(ab_hi, cd_hi, 0, 1, 4, 5));
      store(&rows[i + 3][lane], __builtin_shufflevector(ab_hi, cd_hi, 2, 3, 6, 7));
    }
  }
}

// Multiplies the importance of each number by 1 + its magnitude in halves of its block's mean. Plain squares spend
// themselves on the many small weights and clip the few large ones, which outputs follow most: so weighted, models
// diverge less.
void weigh_by_magnitude(Tile& tile, int64_t n) {
  alignas(64) float unit[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) unit[lane] += std::fabs(tile.x[i][lane]);
  }
  for (float& each : unit) each = std::max(each * (2.0f / static_cast<float>(n)), FLT_MIN);
  for (int64_t i = 0; i < n; ++i) {
    for (int lane = 0; lane < kLanes; ++lane)
      tile.importance[i][lane] *= 1.0f + std::fabs(tile.x[i][lane]) / unit[lane];
  }
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
  Tile tile;
  uint8_t spare[512];  // where the lanes past the last block go
  for (int64_t first = 0; first < n_blocks; first += kLanes) {
    uint8_t* blocks[kLanes];
    const float *x[kLanes], *w[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool used = first + lane < n_blocks;
      const int64_t block = used ? first + lane : first;
      x[lane] = weights + block * width;
      w[lane] = importance + (importance == nullptr ? 0 : block * width % n_cols);
      blocks[lane] = used ? bytes + block * format.block_bytes : spare;
    }
    lay_across(x, width, tile.x);
    if (importance != nullptr) {
      lay_across(w, width, tile.importance);
    } else {
      std::fill_n(&tile.importance[0][0], width * kLanes, 1.0f);
    }
    weigh_by_magnitude(tile, width);
    encode(tile, blocks);
  }
}

}  // namespace halfbyte::quantize
