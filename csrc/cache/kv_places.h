// Where the layers' keys and values lie in the blocks of the pool. Integers only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/kv_layout.h"
#include "ops/memory.h"

namespace halfbyte::cache {

// A layer as the cache sees it. A block holds some positions for all layers of one group.
struct KvLayer {
  ops::KvLayout layout;
  const ops::Memory* memory = nullptr;
  int32_t group = 0;
  int64_t source = -1;  // an earlier layer whose keys and values it reads; -1: its own
};

// A block serves any group, so it is as large as the largest, in each memory. Where no group has a layer that would be
// cut, blocks are cut into slots, and each slot has an array of its own: groups of the same layers make a slot of each,
// and two small layers of one group lie beside each other where another has one large layer.
struct KvPlaces {
  struct Slot {
    const ops::Memory* memory = nullptr;
    int64_t n_bytes = 0;  // of each block
  };
  struct Place {
    int32_t slot = 0;
    int64_t offset = 0;  // in the slot's bytes of a block
  };
  std::vector<Slot> slots;
  std::vector<Place> layers;

  // Of one block in a memory.
  int64_t block_bytes(const ops::Memory& memory) const;
};

KvPlaces kv_places(std::span<const KvLayer> layers);

}  // namespace halfbyte::cache
