// How much scratch memory the ops of a step need, so that it is there before the first one.
#include <algorithm>
#include <array>

#include "cuda/attention.h"
#include "cuda/device.h"
#include "cuda/experts.h"
#include "cuda/likely.h"
#include "cuda/session.h"

namespace halfbyte::cuda {

namespace {

constexpr auto kPurposes = static_cast<size_t>(Session::Purpose::count);
using Sizes = std::array<int64_t, kPurposes>;

int64_t code_bytes(int64_t n_rows, int64_t n_cols) {
  return operand_code_bytes(OperandType::f16, n_rows, n_cols);  // the wider ones
}

int64_t number_bytes(int64_t n_rows, int64_t n_cols) {
  return operand_number_bytes(OperandType::int8, n_rows, n_cols);
}

// Of each purpose, as the ops ask for it.
Sizes sizes_of(const ops::StepShape& s) {
  const int64_t n_slots = s.n_rows * s.n_used, n_floats = static_cast<int64_t>(sizeof(float));
  const SlotGroups grouped = slot_groups(n_slots, s.n_experts, 1);
  Sizes sizes = {};
  const auto at = [&](Session::Purpose purpose) -> int64_t& { return sizes[static_cast<size_t>(purpose)]; };
  using enum Session::Purpose;
  at(codes) = std::max(code_bytes(s.n_rows, s.n_inputs), code_bytes(grouped.n_rows, s.n_expert_values));
  at(numbers) = std::max(number_bytes(s.n_rows, s.n_inputs), number_bytes(grouped.n_rows, s.n_expert_values));
  at(gated_codes) = operand_code_bytes(OperandType::int8, s.n_rows, s.n_gated);
  at(gated_numbers) = number_bytes(s.n_rows, s.n_gated);
  at(gated) = n_floats * std::max(s.n_rows * s.n_gated, n_slots * s.n_expert_values);
  at(partial) = partial_bytes(s.n_rows, s.n_heads, s.value_dim, rounded_chunks(s.n_positions));
  at(likely) = likely_bytes(s.n_logit_rows, s.n_vocab);
  if (s.n_experts > 0) {
    at(expert_counts) = expert_count_bytes();
    at(expert_slots) = grouped.n_rows * static_cast<int64_t>(sizeof(int32_t));
    at(expert_tiles) = grouped.n_tiles * static_cast<int64_t>(sizeof(ExpertTile));
  }
  return sizes;
}

// Of positions, slots, picked rows, spans and their block tables.
int64_t input_bytes(const ops::StepShape& s) {
  const int64_t table = s.n_positions / ops::kKvBlockTokens + 1, padding = 64;
  const int64_t rows = s.n_rows * static_cast<int64_t>(2 * sizeof(int32_t) + sizeof(int64_t));
  const int64_t sequence =
      static_cast<int64_t>(sizeof(Span)) + static_cast<int64_t>(sizeof(int32_t)) * table + 2 * padding;
  return s.n_kv_groups * (rows + s.n_sequences * sequence) + 8 * padding;
}

}  // namespace

void Session::reserve(const ops::StepShape& shape) {
  const Sizes sizes = sizes_of(shape);
  for (size_t purpose = 0; purpose < kPurposes; ++purpose) {
    if (sizes[purpose] > 0) scratch(static_cast<Purpose>(purpose), sizes[purpose]);
  }
  make_room(step_, static_cast<size_t>(input_bytes(shape)));
}

// Of the device, for recorded steps: how much each takes is the driver's to decide, so that it is measured
// (end_step()).
int64_t Session::recording_room() {
  return std::min(current_device().total_bytes / 128, int64_t{512} << 20);
}

int64_t Session::reserved_bytes(const ops::StepShape& shape) {
  int64_t n_bytes = recording_room() + static_cast<int64_t>(arena_capacity(static_cast<size_t>(input_bytes(shape))));
  for (const int64_t each : sizes_of(shape)) n_bytes += each;
  return n_bytes;
}

}  // namespace halfbyte::cuda
