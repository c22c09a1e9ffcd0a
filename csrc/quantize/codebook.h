// Codebooks prepared for search. An entry is two halves, each one of few combinations of levels (81 of four three-level
// values, 64 of two eight-level ones), so a group's dot products with all entries are sums of two table look-ups.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quantize/fit.h"
#include "quantize/grids.h"

namespace halfbyte::quantize {

// Least squares make what a block reconstructs smaller than its weights, all the more with few bits, and the errors of
// a row then add up along the activations' common direction, which importance (their squares alone) does not know. A
// little larger scale takes that out: this much errs least at two bits and below, by the activations' whole covariance.
constexpr float kUnshrinkTwoBits = 1.015f;

template <int n_levels, int n_dims, int n_entries>
struct Codebook {
  static constexpr int kLevels = n_levels, kDims = n_dims, kEntries = n_entries, kHalf = n_dims / 2;
  static constexpr int kCombinations = kHalf == 4 ? 81 : 64;
  static_assert((kHalf == 4 && n_levels == 3) || (kHalf == 2 && n_levels == 8));

  SortedTable<n_levels> levels;
  float combinations[kCombinations][kHalf];  // values
  uint8_t first[n_entries], second[n_entries];
  float values[n_entries][n_dims];

  template <class Number>
  explicit Codebook(const Number (*grid)[n_dims]) {
    Number sorted[n_levels];
    int n = 0;
    for (int entry = 0; entry < n_entries; ++entry) {
      for (int i = 0; i < n_dims; ++i) {
        values[entry][i] = grid[entry][i];
        if (std::find(sorted, sorted + n, grid[entry][i]) == sorted + n) sorted[n++] = grid[entry][i];
      }
    }
    std::sort(sorted, sorted + n_levels);
    for (int k = 0; k < n_levels; ++k) levels.values[k] = sorted[k];
    for (int c = 0; c < kCombinations; ++c) {
      for (int i = 0, rest = c; i < kHalf; ++i, rest /= n_levels) combinations[c][i] = sorted[rest % n_levels];
    }
    const auto combination = [&](const Number* half) {
      int c = 0;
      for (int i = kHalf - 1; i >= 0; --i)
        c = c * n_levels + static_cast<int>(std::find(sorted, sorted + n_levels, half[i]) - sorted);
      return static_cast<uint8_t>(c);
    };
    for (int entry = 0; entry < n_entries; ++entry) {
      first[entry] = combination(grid[entry]);
      second[entry] = combination(grid[entry] + kHalf);
    }
  }
};

// sum_i a[i] * values^power of every combination of one half of a group.
template <class L, class Book>
struct HalfTables {
  L xv[Book::kCombinations], vv[Book::kCombinations];  // of importance x v, importance v^2

  void fill(const Book& book, ConstRows x, ConstRows importance) {
    L wx[Book::kHalf], w[Book::kHalf];
    for (int i = 0; i < Book::kHalf; ++i) {
      w[i] = load<L>(importance[i]);
      wx[i] = w[i] * load<L>(x[i]);
    }
    for (int c = 0; c < Book::kCombinations; ++c) {
      L sum{}, squares{};
      for (int i = 0; i < Book::kHalf; ++i) {
        const float v = book.combinations[c][i];
        sum += wx[i] * v;
        squares += w[i] * (v * v);
      }
      xv[c] = sum;
      vv[c] = squares;
    }
  }
};

}  // namespace halfbyte::quantize
