// Rows of one format turned into another, decoded and encoded in pieces on all threads; and what that would lose.
#pragma once

#include <cstdint>
#include <span>

#include "base/function_ref.h"
#include "base/threads.h"
#include "formats/format.h"

namespace halfbyte::quantize {

// A matrix, or a stack of equal matrices (experts), in some format.
struct Matrices {
  const formats::Format* format = nullptr;
  int64_t n_rows = 0;  // of all matrices together
  int64_t n_cols = 0;
  std::span<const std::byte> bytes;  // n_rows * format->row_bytes(n_cols)
  // How much the squared error of each column counts, >= 0: (n_cols), or (n_matrices, n_cols), or empty for all alike.
  // Only ratios matter; columns that never counted still do a little.
  std::span<const float> importance;
  // What enters each column on average, where `importance` is the mean square: empty, or as many.
  std::span<const float> mean_inputs;
};

// Encodes to `to` into out (n_rows * to.row_bytes(n_cols) bytes). The result does not depend on the pool or the CPU.
// `advance` is told rows done now and then; false stops with Error(cancelled). Throws Error(format) for weights that
// are not finite, invalid_argument for sizes that do not fit.
void requantize(const Matrices& from, const formats::Format& to, std::span<std::byte> out, ThreadPool& pool,
                FunctionRef<bool(int64_t rows_done)> advance);

// What enters encode_rows()'s measure of decoded - w, and of w itself, with importance scaled to a mean of 1.
struct Loss {
  double error = 0.0, energy = 0.0;
};

// The loss of requantize() on at most max_rows rows, evenly spread.
Loss measure_loss(const Matrices& from, const formats::Format& to, int64_t max_rows, ThreadPool& pool);

}  // namespace halfbyte::quantize
