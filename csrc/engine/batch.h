// From a plan to what the model takes.
#pragma once

#include <vector>

#include "engine/scheduler.h"
#include "model/batch.h"

namespace halfbyte::engine {

// Refers to the scheduler's block tables: valid until they change.
inline model::Batch make_batch(const Scheduler& scheduler, const std::vector<PlannedRows>& plan) {
  model::Batch batch;
  for (const PlannedRows& rows : plan) {
    const std::span<const int32_t> tokens = scheduler.tokens(rows.id);
    const int64_t first_row = batch.n_rows();
    for (int64_t p = rows.first_position; p < rows.first_position + rows.n_rows; ++p) {
      batch.tokens.push_back(tokens[static_cast<size_t>(p)]);
      batch.positions.push_back(static_cast<int32_t>(p));
    }
    batch.sequences.push_back({first_row, rows.n_rows, rows.first_position, rows.role, scheduler.block_table(rows.id)});
    for (int64_t row = batch.n_rows() - rows.n_logits; row < batch.n_rows(); ++row)
      batch.logit_rows.push_back(static_cast<int32_t>(row));
  }
  return batch;
}

}  // namespace halfbyte::engine
