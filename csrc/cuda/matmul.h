// Matrix products of one kind: what a launch is told.
#pragma once

#include "cuda/operands.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// Sixteen int8 values as four words.
struct TableWords {
  uint32_t words[4];
};

// Consecutive token groups that one block multiplies with one expert's matrix; expert -1: nothing to do.
struct ExpertTile {
  int32_t first_group, end;  // end: of the tokens
  int32_t expert;
};

// One output matrix, or a gated pair of them: out[t, r] (+)= scale * act(w[r].x[t] + bias[r]), gated:
// act(min(gate[r].x[t] + bias[r], limit)) * (clamp(up[r].x[t] + up_bias[r], -limit, limit) + shift).
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
  float limit = 0.0f, shift = 0.0f;  // gated only; limit 0: none
  float factors[2] = {1.0f, 1.0f};   // of the two row tiles' scales
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
  // Experts: of each block column its tokens, of each token its slot: row slot / slots_per_row of `rows` goes in, row
  // slot comes out. Matrices of a stack are matrix_bytes apart.
  const ExpertTile* tiles = nullptr;
  const int32_t* slots = nullptr;
  int n_tiles = 0, slots_per_row = 1;
  int64_t matrix_bytes = 0;
  Operands rounded;  // gated, few tokens: takes the output rounded as well; without codes: not wanted
  int n_parts = 0;
  Part parts[kMostParts];
};

// Warps of a block that multiplies few tokens.
inline constexpr int kFewWarps = 8;

// Whether blocks make whole groups of 32 columns of a gated output: of two row tiles and all their slices.
inline bool rounds_output(const Job& job) {
  return job.x.n_groups() <= 2 && 2 * job.n_slices <= kFewWarps;
}

// From this many tokens on, warps take all slices of a row tile one after another and share the activations.
inline constexpr int kManyTokens = 256;

// matmul_*.cu: blocks of n_groups (1, 2 or 8) groups of 8 tokens.
template <Kind kKind>
void multiply(const Job& job, int n_groups, bool is_sequential, cudaStream_t stream);

}  // namespace halfbyte::cuda
