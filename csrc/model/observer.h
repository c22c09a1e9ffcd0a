// Who wants to see what enters a model's matrices (importance matrices are made of it).
#pragma once

#include <cstdint>
#include <span>

#include "ops/matrix.h"

namespace halfbyte::model {

class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  // Called before x (n_rows, weight.n_cols; row r at x + r * stride, host memory) is multiplied with a layer's matrix.
  virtual void observe(const ops::Matrix& weight, const float* x, int64_t stride, int64_t n_rows) = 0;
  // The same for a stack of experts: expert experts[i] of it is multiplied with row i / rows_each of x, 0 <= i < n.
  virtual void observe_experts(const ops::Matrix& stack, const float* x, int64_t stride,
                               std::span<const int32_t> experts, int rows_each) = 0;
};

}  // namespace halfbyte::model
