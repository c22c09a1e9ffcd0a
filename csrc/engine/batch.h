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
    batch.add_rows(tokens.subspan(static_cast<size_t>(rows.first_position), static_cast<size_t>(rows.n_rows)),
                   rows.first_position, rows.role, scheduler.block_tables(rows.id));
    model::want_last(batch, rows.n_logits, batch.logit_rows);
  }
  return batch;
}

}  // namespace halfbyte::engine
