// Which layers share KV blocks: a block of the pool holds some positions for one group of layers.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/kv_places.h"
#include "model/weights.h"

namespace halfbyte::model {

// Layers of a group look equally far back, so that their blocks can be given back together; and the groups take about
// equally many bytes of each memory, so that a block serves any of them.
struct KvGroups {
  std::vector<int64_t> windows;   // of each group: positions that its layers see, 0: all
  std::vector<int32_t> group_of;  // of each layer

  int64_t n_groups() const { return static_cast<int64_t>(windows.size()); }
};

// memories: where each layer's keys and values lie.
KvGroups kv_groups(const std::vector<LayerConfig>& layers, const std::vector<const ops::Memory*>& memories);
KvGroups kv_groups(const Weights& weights);

// What a cache of the model holds.
std::vector<cache::KvLayer> kv_layers(const Weights& weights, const KvGroups& groups, ops::KvType k_type,
                                      ops::KvType v_type);

}  // namespace halfbyte::model
