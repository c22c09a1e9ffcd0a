// Encoding of rows whose inputs have a mean: what blocks of a row err along it, other blocks of the row take back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/format.h"

namespace halfbyte::quantize {

// Inputs of a matrix as their first two moments tell them: independent of each other around their mean. A row that
// errs by e in each weight errs in its output by sum spread e^2 + (sum mean e)^2, expected and squared.
struct Inputs {
  std::vector<float> square;  // mean square of each column's inputs
  std::vector<float> mean;
  std::vector<float> spread;  // the variance, at least a little of the square
  std::vector<float> answer;  // mean / spread: how a weight moves, at least cost, to take back an error along the mean

  // square > 0; mean: as many. A mean that its square rules out is cut down to it.
  Inputs(std::span<const float> square, std::span<const float> mean);

  double error_of(const float* difference) const;
};

// Rows that are best encoded together.
inline constexpr int64_t kCompensatedRows = 16;

// Encodes rows (see encode_rows()) so that their outputs err least.
void encode_compensated(const formats::Format& format, const float* weights, int64_t n_rows, const Inputs& inputs,
                        std::byte* out);

}  // namespace halfbyte::quantize
