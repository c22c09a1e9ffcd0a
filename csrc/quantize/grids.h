// The values that codes stand for, as functions on lanes: snap() gives the nearest value, code() its stored code.
#pragma once

#include "formats/iq4_nl.h"
#include "formats/mxfp4.h"
#include "quantize/lanes.h"

namespace halfbyte::quantize {

// Whole numbers low..high, stored from 0. A search tries 2 * steps + 1 scales for each end, `tenths` of a code apart.
template <int low, int high, int steps, int tenths>
struct WholeGrid {
  static constexpr float kLow = low, kHigh = high, kStride = 0.1f * tenths;
  static constexpr int kSteps = steps;
  template <class L>
  static L snap(const L& x) {
    return clamped(rounded(x), kLow, kHigh);
  }
  template <class L>
  static L code(const L& x) {
    return snap(x) - kLow;
  }
};

// A sorted table of values; code k is the k-th.
template <int n>
struct SortedTable {
  float values[n];

  float highest() const { return values[n - 1]; }

  // Counts the midpoints below x, summing `step(k)` for each.
  template <class L, class Step>
  L climb(const L& x, float start, Step step) const {
    L out = lanes_of<L>(start);
    for (int k = 0; k + 1 < n; ++k) {
      const float midpoint = 0.5f * (values[k] + values[k + 1]);
      out = out + choose(x > midpoint, lanes_of<L>(step(k)), L{});
    }
    return out;
  }
  template <class L>
  L nearest(const L& x) const {
    return climb(x, values[0], [this](int k) { return values[k + 1] - values[k]; });
  }
  template <class L>
  L index(const L& x) const {
    return climb(x, 0.0f, [](int) { return 1.0f; });
  }
};

struct Iq4Grid {
  static constexpr float kLow = -127, kHigh = 113, kStride = 1.0f;
  static constexpr int kSteps = 9;
  static constexpr SortedTable<16> kTable = [] {
    SortedTable<16> table{};
    for (int i = 0; i < 16; ++i) table.values[i] = formats::kIq4Values[i];
    return table;
  }();
  template <class L>
  static L snap(const L& x) {
    return kTable.nearest(x);
  }
  template <class L>
  static L code(const L& x) {
    return kTable.index(x);
  }
};

// Codes 0..7 are magnitudes, 8..15 the same below zero.
struct Fp4Grid {
  static constexpr SortedTable<8> kTable = [] {
    SortedTable<8> table{};
    for (int i = 0; i < 8; ++i) table.values[i] = formats::kFp4Values[i];
    return table;
  }();
  template <class L>
  static L snap(const L& x) {
    const L value = kTable.nearest(magnitude(x));
    return choose(x < 0.0f, L{} - value, value);
  }
  template <class L>
  static L code(const L& x) {
    const L index = kTable.index(magnitude(x));
    return choose(x < 0.0f, index + 8.0f, index);
  }
};

}  // namespace halfbyte::quantize
