// Encoders of the formats with one scale (and offset) per block of 32, and of the ternary ones with one per 256.
#include "formats/iq4_nl.h"
#include "formats/mxfp4.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q8_0.h"
#include "formats/tq1_0.h"
#include "formats/tq2_0.h"
#include "quantize/encoders.h"
#include "quantize/fit.h"
#include "quantize/grids.h"

namespace halfbyte::quantize {

namespace {

constexpr int kRounds = 2;

// d as the f16 that the block will hold, found by turns with the codes.
template <class L, class Grid, int n>
L fit_f16_scale(const Tile& tile) {
  L d = as_f16(fit_scale<L, Grid, n>(tile.x, tile.importance));
  L best_error = lanes_of<L>(3e38f), best_d{};
  for (int round = 0; round < kRounds; ++round) {
    const Sums<L> s = error_at<L, Grid, n>(tile.x, tile.importance, d);
    const auto better = s.error < best_error;
    best_error = choose(better, s.error, best_error);
    best_d = choose(better, d, best_d);
    d = as_f16(ratio(s.xv, s.vv));
  }
  return best_d;
}

template <class L, class Grid, int n, class Pack>
void encode_scaled_block(const Tile& tile, uint8_t* const* out, Pack pack) {
  alignas(64) float scales[kLanes];
  uint8_t codes[n][kLanes], q[kLanes][n];
  const L d = fit_f16_scale<L, Grid, n>(tile), inverse = ratio(lanes_of<L>(1.0f), d);
  store(scales, d);
  for (int i = 0; i < n; ++i) store_codes(codes[i], Grid::code(load<L>(tile.x[i]) * inverse));
  codes_of_lanes(codes, q);
  for (int lane = 0; lane < kLanes; ++lane) pack(scales[lane], q[lane], out[lane]);
}

template <class L>
void encode_q4_0(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, WholeGrid<-8, 7, 3, 3>, 32>(tile, out, formats::Q4_0::pack);
}
template <class L>
void encode_q5_0(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, WholeGrid<-16, 15, 4, 4>, 32>(tile, out, formats::Q5_0::pack);
}
// Codes -127..127: -128 is legal in a file, but integer kernels negate codes.
template <class L>
void encode_q8_0(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, WholeGrid<-127, 127, 1, 3>, 32>(tile, out, [](float d, uint8_t* q, uint8_t* block) {
    int8_t codes[32];
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<int8_t>(q[i] - 127);
    formats::Q8_0::pack(d, codes, block);
  });
}
template <class L>
void encode_iq4_nl(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, Iq4Grid, 32>(tile, out, formats::IQ4_NL::pack);
}
template <class L>
void encode_tq1_0(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, WholeGrid<-1, 1, 16, 1>, 256>(tile, out, formats::TQ1_0::pack);
}
template <class L>
void encode_tq2_0(const Tile& tile, uint8_t* const* out) {
  encode_scaled_block<L, WholeGrid<-1, 1, 16, 1>, 256>(tile, out, formats::TQ2_0::pack);
}

// Offset and scale as the f16 numbers that the block will hold.
template <class L, int top, class Pack>
void encode_affine_block(const Tile& tile, uint8_t* const* out, const AffineSearch& search, Pack pack) {
  const Moments<L> m = moments<L, 32>(tile.x, tile.importance);
  Affine<L> fit = fit_affine<L, 32>(tile.x, tile.importance, m, top, false, search), best;
  L best_error = lanes_of<L>(3e38f);
  for (int round = 0; round < kRounds; ++round) {
    fit.scale = as_f16(fit.scale);
    // The offset that suits the rounded scale.
    fit.offset = as_f16(choose(m.w > 0.0f, ratio(m.x - fit.scale * fit.v, m.w), fit.offset));
    const Sums<L> s = affine_error_at<L, 32>(tile.x, tile.importance, fit.scale, fit.offset, top);
    const auto better = s.error < best_error;
    best_error = choose(better, s.error, best_error);
    best.scale = choose(better, fit.scale, best.scale);
    best.offset = choose(better, fit.offset, best.offset);
    fit = solve_affine(m, s, false);
  }
  alignas(64) float scales[kLanes], offsets[kLanes];
  uint8_t codes[32][kLanes], q[kLanes][32];
  store(scales, best.scale);
  store(offsets, best.offset);
  const L inverse = ratio(lanes_of<L>(1.0f), best.scale);
  for (int i = 0; i < 32; ++i)
    store_codes(codes[i], clamped(rounded((load<L>(tile.x[i]) - best.offset) * inverse), 0.0f, top));
  codes_of_lanes(codes, q);
  for (int lane = 0; lane < kLanes; ++lane) pack(scales[lane], offsets[lane], q[lane], out[lane]);
}

template <class L>
void encode_q4_1(const Tile& tile, uint8_t* const* out) {
  encode_affine_block<L, 15>(tile, out, {4, -0.8f, 0.95f, 2, -0.5f, 0.0f, 1}, formats::Q4_1::pack);
}
template <class L>
void encode_q5_1(const Tile& tile, uint8_t* const* out) {
  encode_affine_block<L, 31>(tile, out, {4, -1.3f, 0.75f, 2, -0.44f, 0.24f, 1}, formats::Q5_1::pack);
}

// The scale is a power of two: the one that puts the largest weight into the top octave of codes, or one of its
// neighbours.
template <class L>
void encode_mxfp4(const Tile& tile, uint8_t* const* out) {
  L largest{};
  for (int i = 0; i < 32; ++i) largest = larger(magnitude(load<L>(tile.x[i])), largest);
  alignas(64) float lane_largest[kLanes], scales[kLanes];
  int exponents[kLanes];
  store(lane_largest, largest);
  for (int lane = 0; lane < kLanes; ++lane) {
    // Bits 23 and up of a float: 127 + floor(log2). Codes of 8 to 12 stand for the top octave of 2^(e-128).
    const int log2 = static_cast<int>(std::bit_cast<uint32_t>(lane_largest[lane]) >> 23);
    exponents[lane] = std::clamp(log2 - 2, 1, 253);
  }
  L best_error = lanes_of<L>(3e38f), best_scale{};
  alignas(64) float best_shift[kLanes] = {};
  L shift_of_best{};
  for (const int shift : {0, -1, 1}) {
    for (int lane = 0; lane < kLanes; ++lane)
      scales[lane] = formats::e8m0_half(static_cast<uint8_t>(exponents[lane] + shift));
    const Sums<L> s = error_at<L, Fp4Grid, 32>(tile.x, tile.importance, load<L>(scales));
    const auto better = s.error < best_error;
    best_error = choose(better, s.error, best_error);
    best_scale = choose(better, load<L>(scales), best_scale);
    shift_of_best = choose(better, lanes_of<L>(static_cast<float>(shift)), shift_of_best);
  }
  store(best_shift, shift_of_best);
  uint8_t codes[32][kLanes], q[kLanes][32];
  const L inverse = ratio(lanes_of<L>(1.0f), best_scale);
  for (int i = 0; i < 32; ++i) store_codes(codes[i], Fp4Grid::code(load<L>(tile.x[i]) * inverse));
  codes_of_lanes(codes, q);
  for (int lane = 0; lane < kLanes; ++lane)
    formats::MXFP4::pack(static_cast<uint8_t>(exponents[lane] + static_cast<int>(best_shift[lane])), q[lane],
                         out[lane]);
}

}  // namespace

HALFBYTE_TILE_ENCODER(q4_0, magnitude)
HALFBYTE_TILE_ENCODER(q4_1, magnitude)
HALFBYTE_TILE_ENCODER(q5_0, magnitude)
HALFBYTE_TILE_ENCODER(q5_1, magnitude)
HALFBYTE_TILE_ENCODER(q8_0, magnitude)
HALFBYTE_TILE_ENCODER(iq4_nl, magnitude)
HALFBYTE_TILE_ENCODER(mxfp4, magnitude)
HALFBYTE_TILE_ENCODER(tq1_0, magnitude)
HALFBYTE_TILE_ENCODER(tq2_0, magnitude)

}  // namespace halfbyte::quantize
