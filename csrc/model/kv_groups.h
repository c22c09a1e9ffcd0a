// Which layers share KV blocks: a block of the pool holds some positions for one group of layers.
#pragma once

#include <cstdint>
#include <vector>

#include "model/weights.h"

namespace halfbyte::model {

// Layers of a group look equally far back, so that their blocks can be given back together; and the groups are alike in
// number and shape of layers, so that a block serves any of them. Layer l of group group_of[l] lies at slot slot_of[l]
// of a block.
struct KvGroups {
  std::vector<int64_t> windows;  // of each group: positions that its layers see, 0: all
  std::vector<int32_t> group_of, slot_of;
  std::vector<int32_t> example;  // of each slot, a layer that has its shape and lies in its memory

  int64_t n_groups() const { return static_cast<int64_t>(windows.size()); }
};

KvGroups kv_groups(const Weights& weights);

}  // namespace halfbyte::model
