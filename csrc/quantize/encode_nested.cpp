// Encoders of the 256-weight formats whose groups share a scale (and a minimum) that is itself a small integer.
#include "formats/iq4_xs.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"
#include "formats/q5_k.h"
#include "formats/q6_k.h"
#include "quantize/encoders.h"
#include "quantize/fit.h"
#include "quantize/grids.h"

namespace halfbyte::quantize {

namespace {

constexpr int kRounds = 3;

// One group's whole-number scale (and minimum) and how well it does.
template <class L>
struct Choice {
  L scale{}, minimum{};
  Sums<L> sums;
};

template <class L>
void keep_better(Choice<L>& best, const Choice<L>& other) {
  const auto better = other.sums.error < best.sums.error;
  best.scale = choose(better, other.scale, best.scale);
  best.minimum = choose(better, other.minimum, best.minimum);
  best.sums.v = choose(better, other.sums.v, best.sums.v);
  best.sums.vv = choose(better, other.sums.vv, best.sums.vv);
  best.sums.xv = choose(better, other.sums.xv, best.sums.xv);
  best.sums.error = choose(better, other.sums.error, best.sums.error);
}

// w = d * s * v: v on the grid, s whole in scale_low..scale_high, one s a group of n. Fills d, s and v.
template <class L, class Grid, int n, int scale_low, int scale_high>
L fit_nested_scales(const Tile& tile, float (&scales)[256 / n][kLanes]) {
  constexpr int n_groups = 256 / n;
  L fitted[n_groups], extreme{};
  for (int g = 0; g < n_groups; ++g) {
    fitted[g] = fit_scale<L, Grid, n>(tile.x + n * g, tile.importance + n * g);
    extreme = choose(magnitude(fitted[g]) > magnitude(extreme), fitted[g], extreme);
  }
  L d = as_f16(extreme * (1.0f / scale_low)), best_d{}, best_error = lanes_of<L>(3e38f);
  for (int round = 0; round < kRounds; ++round) {
    const L inverse = ratio(lanes_of<L>(1.0f), d);
    L chosen[n_groups], error{}, numerator{}, denominator{};
    for (int g = 0; g < n_groups; ++g) {
      const L nearest = rounded(fitted[g] * inverse);
      Choice<L> best;
      best.sums.error = lanes_of<L>(3e38f);
      for (const float step : {0.0f, -1.0f, 1.0f}) {
        Choice<L> choice;
        choice.scale = clamped(nearest + step, scale_low, scale_high);
        choice.sums = error_at<L, Grid, n>(tile.x + n * g, tile.importance + n * g, d * choice.scale);
        keep_better(best, choice);
      }
      chosen[g] = best.scale;
      error += best.sums.error;
      numerator += best.scale * best.sums.xv;
      denominator += best.scale * best.scale * best.sums.vv;
    }
    const auto better = error < best_error;
    best_error = choose(better, error, best_error);
    best_d = choose(better, d, best_d);
    for (int g = 0; g < n_groups; ++g) store(scales[g], choose(better, chosen[g], load<L>(scales[g])));
    d = as_f16(ratio(numerator, denominator));
  }
  return best_d;
}

template <class L, class Grid, int n, int scale_low, int scale_high, class Pack>
void encode_nested_scales(const Tile& tile, uint8_t* const* out, Pack pack) {
  alignas(64) float scales[256 / n][kLanes] = {}, ds[kLanes];
  uint8_t codes[256][kLanes], q[kLanes][256];
  const L d = fit_nested_scales<L, Grid, n, scale_low, scale_high>(tile, scales);
  store(ds, d);
  for (int g = 0; g < 256 / n; ++g) {
    const L inverse = ratio(lanes_of<L>(1.0f), d * load<L>(scales[g]));
    for (int i = n * g; i < n * g + n; ++i) store_codes(codes[i], Grid::code(load<L>(tile.x[i]) * inverse));
  }
  codes_of_lanes(codes, q);
  for (int lane = 0; lane < kLanes; ++lane) {
    uint8_t s[256 / n];
    lane_codes(scales, 256 / n, lane, -scale_low, s);
    pack(ds[lane], s, q[lane], out[lane]);
  }
}

template <class L>
void encode_q3_k(const Tile& tile, uint8_t* const* out) {
  encode_nested_scales<L, WholeGrid<-4, 3, 9, 1>, 16, -32, 31>(tile, out, formats::Q3_K::pack);
}
template <class L>
void encode_q6_k(const Tile& tile, uint8_t* const* out) {
  encode_nested_scales<L, WholeGrid<-32, 31, 5, 2>, 16, -128, 127>(
      tile, out, [](float d, const uint8_t* s, const uint8_t* q, uint8_t* block) {
        int8_t scales[16];
        for (int g = 0; g < 16; ++g) scales[g] = static_cast<int8_t>(s[g] - 128);
        formats::Q6_K::pack(d, scales, q, block);
      });
}
template <class L>
void encode_iq4_xs(const Tile& tile, uint8_t* const* out) {
  encode_nested_scales<L, Iq4Grid, 32, -32, 31>(tile, out, formats::IQ4_XS::pack);
}

// w = d * s * q - dmin * m: q in 0..top, s and m whole in 0..scale_top, one of each a group of n.
template <class L, int n, int top, int scale_top>
Affine<L> fit_nested_minimums(const Tile& tile, float (&scales)[256 / n][kLanes], float (&minimums)[256 / n][kLanes]) {
  constexpr int n_groups = 256 / n;
  Affine<L> fitted[n_groups];
  Moments<L> m[n_groups];
  L largest{}, lowest{};
  for (int g = 0; g < n_groups; ++g) {
    ConstRows x = tile.x + n * g, importance = tile.importance + n * g;
    m[g] = moments<L, n>(x, importance);
    fitted[g] = fit_affine<L, n>(x, importance, m[g], top, true, {6, -0.5f, 1.5f, 4, -0.7f, 0.2f, 3});
    largest = larger(fitted[g].scale, largest);
    lowest = smaller(fitted[g].offset, lowest);
  }
  L d = largest * (1.0f / scale_top), dmin = lowest * (-1.0f / scale_top);
  L best_error = lanes_of<L>(3e38f);
  Affine<L> best;
  for (int round = 0; round < kRounds; ++round) {
    d = as_f16(d);
    dmin = as_f16(dmin);
    const L inverse = ratio(lanes_of<L>(1.0f), d), inverse_min = ratio(lanes_of<L>(1.0f), dmin);
    // Sums of the normal equations for d and dmin.
    L error{}, ss{}, sm{}, mm{}, sx{}, mx{};
    L chosen_scale[n_groups], chosen_minimum[n_groups];
    for (int g = 0; g < n_groups; ++g) {
      ConstRows x = tile.x + n * g, importance = tile.importance + n * g;
      const L nearest = rounded(fitted[g].scale * inverse);
      Choice<L> chosen;
      chosen.sums.error = lanes_of<L>(3e38f);
      for (const float step : {0.0f, -1.0f, 1.0f}) {
        Choice<L> choice;
        choice.scale = clamped(nearest + step, 0.0f, scale_top);
        const L scale = d * choice.scale;
        // The minimum that suits this scale, not the one that suited the unrounded scale.
        const L start = clamped(rounded((L{} - fitted[g].offset) * inverse_min), 0.0f, scale_top);
        const Sums<L> s = affine_error_at<L, n>(x, importance, scale, L{} - dmin * start, top);
        const L wanted = ratio(scale * s.v - m[g].x, m[g].w);
        choice.minimum = choose(m[g].w > 0.0f, clamped(rounded(wanted * inverse_min), 0.0f, scale_top), start);
        choice.sums = affine_error_at<L, n>(x, importance, scale, L{} - dmin * choice.minimum, top);
        keep_better(chosen, choice);
      }
      chosen_scale[g] = chosen.scale;
      chosen_minimum[g] = chosen.minimum;
      error += chosen.sums.error;
      ss += chosen.scale * chosen.scale * chosen.sums.vv;
      sm += chosen.scale * chosen.minimum * chosen.sums.v;
      mm += chosen.minimum * chosen.minimum * m[g].w;
      sx += chosen.scale * chosen.sums.xv;
      mx += chosen.minimum * m[g].x;
    }
    const auto better = error < best_error;
    best_error = choose(better, error, best_error);
    best.scale = choose(better, d, best.scale);
    best.offset = choose(better, dmin, best.offset);
    for (int g = 0; g < n_groups; ++g) {
      store(scales[g], choose(better, chosen_scale[g], load<L>(scales[g])));
      store(minimums[g], choose(better, chosen_minimum[g], load<L>(minimums[g])));
    }
    const L det = ss * mm - sm * sm;
    const L both_min = ratio(sm * sx - ss * mx, det);
    const auto both = choose(det > 0.0f, both_min, L{}) > 0.0f;
    d = choose(both, ratio(sx * mm - sm * mx, det), ratio(sx, ss));
    dmin = choose(both, both_min, L{});
  }
  return best;
}

template <class L, int n, int top, int scale_top, class Pack>
void encode_nested_minimums(const Tile& tile, uint8_t* const* out, Pack pack) {
  alignas(64) float scales[256 / n][kLanes] = {}, minimums[256 / n][kLanes] = {}, ds[kLanes], dmins[kLanes];
  uint8_t codes[256][kLanes], q[kLanes][256];
  const Affine<L> best = fit_nested_minimums<L, n, top, scale_top>(tile, scales, minimums);
  store(ds, best.scale);
  store(dmins, best.offset);
  for (int g = 0; g < 256 / n; ++g) {
    const L inverse = ratio(lanes_of<L>(1.0f), best.scale * load<L>(scales[g]));
    const L minimum = best.offset * load<L>(minimums[g]);
    for (int i = n * g; i < n * g + n; ++i)
      store_codes(codes[i], clamped(rounded((load<L>(tile.x[i]) + minimum) * inverse), 0.0f, top));
  }
  codes_of_lanes(codes, q);
  for (int lane = 0; lane < kLanes; ++lane) {
    uint8_t s[256 / n], m[256 / n];
    lane_codes(scales, 256 / n, lane, 0.0f, s);
    lane_codes(minimums, 256 / n, lane, 0.0f, m);
    pack(ds[lane], dmins[lane], s, m, q[lane], out[lane]);
  }
}

template <class L>
void encode_q2_k(const Tile& tile, uint8_t* const* out) {
  encode_nested_minimums<L, 16, 3, 15>(tile, out, formats::Q2_K::pack);
}
template <class L>
void encode_q4_k(const Tile& tile, uint8_t* const* out) {
  encode_nested_minimums<L, 32, 15, 63>(tile, out, formats::Q4_K::pack);
}
template <class L>
void encode_q5_k(const Tile& tile, uint8_t* const* out) {
  encode_nested_minimums<L, 32, 31, 63>(tile, out, formats::Q5_K::pack);
}

}  // namespace

HALFBYTE_TILE_ENCODER(q2_k, magnitude)
HALFBYTE_TILE_ENCODER(q3_k, magnitude)
HALFBYTE_TILE_ENCODER(q4_k, magnitude)
HALFBYTE_TILE_ENCODER(q5_k, magnitude)
HALFBYTE_TILE_ENCODER(q6_k, magnitude)
HALFBYTE_TILE_ENCODER(iq4_xs, magnitude)

}  // namespace halfbyte::quantize
