// Mixtures of experts; contracts in ops/ops.h.
#pragma once

#include "cuda/matmul.h"
#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void route(const ops::Context&, const ops::Routing&, const float* logits, int64_t n_tokens, int32_t* experts,
           float* weights);

// The slots (token, choice) of a call by expert: each expert's take whole groups of 8, the rest of its last one empty.
struct Groups {
  const ExpertTile* tiles = nullptr;
  const int32_t* slots = nullptr;  // of each row of the groups; -1: none
  int n_tiles = 0, n_rows = 0;     // as many as there could be: the device alone knows how many there are
  int groups_per_tile = 1;
};
// Rows and tiles of all groups, at most.
struct SlotGroups {
  int64_t n_rows, n_tiles;
};
SlotGroups slot_groups(int64_t n_slots, int64_t n_experts, int groups_per_tile);
int64_t expert_count_bytes();

// most_groups: of a tile.
Groups group_slots(Session&, const ops::Chosen&, int64_t n_tokens, int64_t n_experts, int most_groups);

// out[t, i] (+)= scale * sum over j of weights[t, j] * x[t * n_used + j, i], in order.
void add_up_slots(Session&, const float* x, const ops::Chosen&, int64_t n_tokens, int64_t n, float scale,
                  bool accumulate, float* out, int64_t out_stride);

}  // namespace halfbyte::cuda
