// The only thing that crosses from the engine to the model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/ops.h"

namespace halfbyte::model {

struct AdapterSet;

// Rows of one sequence in a batch: consecutive positions, one role.
struct SequenceRows {
  int64_t first_row = 0;
  int64_t n_rows = 0;
  int64_t first_position = 0;
  ops::Role role = ops::Role::prefill;
  // KV block of positions 16i..16i+15 at index i; covers position first_position + n_rows - 1.
  std::span<const int32_t> block_table;
  const AdapterSet* adapters = nullptr;  // what the sequence's request adds to the weights
};

// A step's work: rows of any mix of sequences. Prefill sequences come before decode sequences.
struct Batch {
  std::vector<int32_t> tokens;          // (n_rows)
  std::vector<int32_t> positions;       // (n_rows)
  std::vector<SequenceRows> sequences;  // cover 0..n_rows in order
  std::vector<int32_t> logit_rows;      // rows whose logits are wanted, ascending

  int64_t n_rows() const { return static_cast<int64_t>(tokens.size()); }
};

}  // namespace halfbyte::model
