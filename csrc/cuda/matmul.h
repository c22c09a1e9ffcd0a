// Matrix products of one kind: what a launch is told.
#pragma once

#include "cuda/operands.h"
#include "cuda/tiles.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// One output matrix, or a gated pair of them: out[t, r] (+)= scale * act(w[r].x[t] + bias[r]), gated:
// act(gate[r].x[t] + bias[r]) * (up[r].x[t] + up_bias[r]).
struct Part {
  const uint8_t* weight = nullptr;
  const uint8_t* up = nullptr;  // gated only
  const float* bias = nullptr;
  const float* up_bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
  int n_rows = 0;
  int pair_end = 0;  // of this and all earlier parts: two row tiles a pair
  ops::Activation activation = ops::Activation::none;
  bool accumulate = false;
  float scale = 1.0f;
  float factors[2] = {1.0f, 1.0f};  // of the two row tiles' scales
  TableWords tables[2] = {};
};

inline constexpr int kMostParts = 4;

struct Job {
  Operands x;
  const float* rows = nullptr;  // f32: x as it is
  int64_t row_stride = 0;
  int n_cols = 0;
  int n_cells = 0;   // of a row
  int n_slices = 1;  // of a row's cells, summed in order
  int n_parts = 0;
  Part parts[kMostParts];
};

// Up to this many tokens a block reads a row tile once for all of them.
inline constexpr int kMostTokensAtOnce = 64;
// From this many tokens on, warps take all slices of a row tile one after another and share the activations.
inline constexpr int kManyTokens = 256;

template <Kind kKind>
void multiply(const Job& job, cudaStream_t stream);  // matmul_*.cu

}  // namespace halfbyte::cuda
