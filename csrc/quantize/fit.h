// Least-squares fits of scales and offsets to groups of weights, sixteen groups at a time.
//
// All searches alternate two exact steps: the best codes for a scale, and the best scale for the codes. The error never
// rises; candidates around the plain answer (largest weight on the outermost code) keep it out of poor valleys.
#pragma once

#include "quantize/tile.h"

namespace halfbyte::quantize {

// What a choice of codes v for the weights x amounts to.
template <class L>
struct Sums {
  L v{}, vv{}, xv{}, error{};  // of importance times v, v^2, x v, and the squared error where a scale was given
};

template <class L>
struct Moments {
  L w{}, x{}, xx{};  // of importance times 1, x, x^2
};

template <class L, int n>
inline Moments<L> moments(ConstRows x, ConstRows importance) {
  Moments<L> m;
  for (int i = 0; i < n; ++i) {
    const L xi = load<L>(x[i]), wi = load<L>(importance[i]);
    m.w += wi;
    m.x += wi * xi;
    m.xx += wi * xi * xi;
  }
  return m;
}

template <class L>
struct Range {
  L low, high;
};

template <class L, int n>
inline Range<L> range_of(ConstRows x) {
  Range<L> range = {load<L>(x[0]), load<L>(x[0])};
  for (int i = 1; i < n; ++i) {
    range.low = smaller(load<L>(x[i]), range.low);
    range.high = larger(load<L>(x[i]), range.high);
  }
  return range;
}

// x ~ scale * v, v on the grid. -----------------------------------------------------------------------------------

template <class L, class Grid, int n>
inline Sums<L> sums_at(ConstRows x, ConstRows importance, const L& inverse) {
  Sums<L> s;
  for (int i = 0; i < n; ++i) {
    const L xi = load<L>(x[i]), v = Grid::snap(xi * inverse), wv = load<L>(importance[i]) * v;
    s.vv += wv * v;
    s.xv += wv * xi;
  }
  return s;
}

template <class L, class Grid, int n>
inline Sums<L> error_at(ConstRows x, ConstRows importance, const L& scale) {
  const L inverse = ratio(lanes_of<L>(1.0f), scale);
  Sums<L> s;
  for (int i = 0; i < n; ++i) {
    const L xi = load<L>(x[i]), wi = load<L>(importance[i]);
    const L v = Grid::snap(xi * inverse), wv = wi * v, rest = xi - scale * v;
    s.vv += wv * v;
    s.xv += wv * xi;
    s.error += wi * rest * rest;
  }
  return s;
}

// The best scale found for x ~ scale * v. Either end of the grid may take the largest weight, so it may be negative.
template <class L, class Grid, int n>
inline L fit_scale(ConstRows x, ConstRows importance) {
  const Range<L> range = range_of<L, n>(x);
  const L extreme = choose(magnitude(range.low) > magnitude(range.high), range.low, range.high);
  L best_gain{}, best_scale{};
  const auto consider = [&](const L& inverse) {
    const Sums<L> s = sums_at<L, Grid, n>(x, importance, inverse);
    const L scale = ratio(s.xv, s.vv), gain = scale * s.xv;  // gain: how much of sum x^2 the fit explains
    const auto better = gain > best_gain;
    best_gain = choose(better, gain, best_gain);
    best_scale = choose(better, scale, best_scale);
  };
  for (const float end : {Grid::kHigh, Grid::kLow}) {
    for (int step = -Grid::kSteps; step <= Grid::kSteps; ++step)
      consider(ratio(lanes_of<L>(end + Grid::kStride * static_cast<float>(step)), extreme));
    if (Grid::kLow == -Grid::kHigh) break;
  }
  for (int round = 0; round < 2; ++round) consider(ratio(lanes_of<L>(1.0f), best_scale));
  return best_scale;
}

// A scale >= 0 and how much of sum importance x^2 it explains.
template <class L>
struct PositiveFit {
  L scale{}, gain{};
};

// The same for scales that cannot be negative: x ~ scale * v, v in a sorted table.
template <class L, class Table>
inline PositiveFit<L> fit_positive_scale(ConstRows x, ConstRows importance, int n, const Table& table) {
  L extreme{};
  for (int i = 0; i < n; ++i) extreme = larger(magnitude(load<L>(x[i])), extreme);
  PositiveFit<L> best;
  const auto consider = [&](const L& inverse) {
    L vv{}, xv{};
    for (int i = 0; i < n; ++i) {
      const L xi = load<L>(x[i]), v = table.nearest(xi * inverse), wv = load<L>(importance[i]) * v;
      vv += wv * v;
      xv += wv * xi;
    }
    const L scale = larger(ratio(xv, vv), L{}), gain = scale * xv;
    const auto better = gain > best.gain;
    best.gain = choose(better, gain, best.gain);
    best.scale = choose(better, scale, best.scale);
  };
  for (int step = 0; step < 12; ++step)
    consider(ratio(lanes_of<L>(table.highest() * (0.85f + 0.08f * static_cast<float>(step))), extreme));
  for (int round = 0; round < 2; ++round) consider(ratio(lanes_of<L>(1.0f), best.scale));
  return best;
}

// x ~ scale * q + offset, q in 0..top. ----------------------------------------------------------------------------

template <class L>
struct Affine {
  L scale{}, offset{};
  L v{};  // of importance times q, for the codes that these were fitted to
};

// What a search for scale and offset tries: the range of the weights spread over top + stretch_low to top +
// stretch_high codes, and its lower end on code shift_low to shift_high, in even steps; then the best fit's codes and
// their fit, by turns. At least two stretches and two shifts.
struct AffineSearch {
  int stretches;
  float stretch_low, stretch_high;
  int shifts;
  float shift_low, shift_high;
  int turns;
};

// Least squares for given codes; with `offset_at_most_zero` under that constraint.
template <class L>
inline Affine<L> solve_affine(const Moments<L>& m, const Sums<L>& s, bool offset_at_most_zero) {
  const L det = m.w * s.vv - s.v * s.v;
  const auto solvable = det > 0.0f;
  L scale = choose(solvable, ratio(m.w * s.xv - m.x * s.v, det), L{});
  L offset = choose(solvable, ratio(s.vv * m.x - s.v * s.xv, det), ratio(m.x, m.w));
  if (offset_at_most_zero) {
    const auto above = offset > 0.0f;
    scale = choose(above, ratio(s.xv, s.vv), scale);
    offset = smaller(offset, L{});
  }
  return {scale, offset, s.v};
}

template <class L, int n>
inline Sums<L> affine_error_at(ConstRows x, ConstRows importance, const L& scale, const L& offset, float top) {
  const L inverse = ratio(lanes_of<L>(1.0f), scale);
  Sums<L> s;
  for (int i = 0; i < n; ++i) {
    const L xi = load<L>(x[i]), wi = load<L>(importance[i]);
    const L q = clamped(rounded((xi - offset) * inverse), 0.0f, top), wq = wi * q, rest = xi - scale * q - offset;
    s.v += wq;
    s.vv += wq * q;
    s.xv += wq * xi;
    s.error += wi * rest * rest;
  }
  return s;
}

// The best scale and offset found.
template <class L, int n>
inline Affine<L> fit_affine(ConstRows x, ConstRows importance, const Moments<L>& m, float top, bool offset_at_most_zero,
                            const AffineSearch& search) {
  auto [low, high] = range_of<L, n>(x);
  if (offset_at_most_zero) low = smaller(low, L{});
  const L width = high - low;
  L best_error = lanes_of<L>(3e38f);
  Affine<L> best = {L{}, low, L{}};
  const auto consider = [&](const L& inverse, const L& shift) {
    Sums<L> s;
    for (int i = 0; i < n; ++i) {
      const L xi = load<L>(x[i]);
      const L q = clamped(rounded(xi * inverse + shift), 0.0f, top), wq = load<L>(importance[i]) * q;
      s.v += wq;
      s.vv += wq * q;
      s.xv += wq * xi;
    }
    const Affine<L> fit = solve_affine(m, s, offset_at_most_zero);
    const L error = m.xx - fit.scale * (s.xv * 2.0f - fit.scale * s.vv - fit.offset * s.v * 2.0f) -
                    fit.offset * (m.x * 2.0f - fit.offset * m.w);
    const auto better = choose(fit.scale > 0.0f, error, best_error) < best_error;
    best_error = choose(better, error, best_error);
    best.scale = choose(better, fit.scale, best.scale);
    best.offset = choose(better, fit.offset, best.offset);
    best.v = choose(better, fit.v, best.v);
  };
  const auto between = [](float from, float to, int k, int count) {
    return from + (to - from) / static_cast<float>(count - 1) * static_cast<float>(k);
  };
  for (int k = 0; k < search.stretches; ++k) {
    const float stretch = between(search.stretch_low, search.stretch_high, k, search.stretches);
    const L inverse = ratio(lanes_of<L>(top + stretch), width);
    for (int j = 0; j < search.shifts; ++j)
      consider(inverse, lanes_of<L>(between(search.shift_high, search.shift_low, j, search.shifts)) - low * inverse);
  }
  for (int turn = 0; turn < search.turns; ++turn) {
    const L inverse = ratio(lanes_of<L>(1.0f), best.scale);
    consider(inverse, L{} - best.offset * inverse);
  }
  return best;
}

}  // namespace halfbyte::quantize
