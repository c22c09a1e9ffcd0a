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
  // For each group of layers (model/kv_groups.h) the KV block of positions 16i..16i+15 at index i; covers position
  // first_position + n_rows - 1.
  std::span<const std::vector<int32_t>> block_tables;
  const AdapterSet* adapters = nullptr;  // what the sequence's request adds to the weights
};

// A step's work: rows of any mix of sequences. Prefill sequences come before decode sequences.
struct Batch {
  std::vector<int32_t> tokens;          // (n_rows)
  std::vector<int32_t> positions;       // (n_rows)
  std::vector<SequenceRows> sequences;  // cover 0..n_rows in order
  std::vector<int32_t> logit_rows;      // rows whose logits are wanted, ascending
  std::vector<int32_t> hidden_rows;     // rows whose final hidden states are wanted
  // > 0: that many most likely tokens of each logit row will do at first (StepOutput::likely). At most
  // ops::kMostLikely.
  int32_t n_likely = 0;

  int64_t n_rows() const { return static_cast<int64_t>(tokens.size()); }

  // Adds rows of `tokens` from first_position on. block_tables must outlive the batch.
  void add_rows(std::span<const int32_t> rows, int64_t first_position, ops::Role role,
                std::span<const std::vector<int32_t>> block_tables) {
    const auto n = static_cast<int64_t>(rows.size());
    sequences.push_back({n_rows(), n, first_position, role, block_tables});
    tokens.insert(tokens.end(), rows.begin(), rows.end());
    for (int64_t i = 0; i < n; ++i) positions.push_back(static_cast<int32_t>(first_position + i));
  }
};

// Appends the batch's last n rows to a list of rows.
inline void want_last(const Batch& batch, int64_t n, std::vector<int32_t>& rows) {
  for (int64_t row = batch.n_rows() - n; row < batch.n_rows(); ++row) rows.push_back(static_cast<int32_t>(row));
}

// What a step gives; valid until the next.
struct StepOutput {
  std::span<const float> hidden;        // (hidden rows, n_embd) f32: final hidden states, normalized
  std::span<const ops::Likely> likely;  // (logit rows, n_likely)
  int32_t n_likely = 0;                 // the batch's, where that spares time; else 0

  std::span<const ops::Likely> likely_of(int64_t first_row, int64_t n) const {
    return likely.subspan(static_cast<size_t>(first_row * n_likely), static_cast<size_t>(n * n_likely));
  }
};

}  // namespace halfbyte::model
