// The bytes of keys and values: for each slot an array of KV blocks (layout: ops/kv_layout.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "ops/kv_layout.h"
#include "ops/memory.h"

namespace halfbyte::cache {

// A block has slots for the layers of one group; which group's, its holder decides (model/kv_groups.h). Memory is
// reserved at once and touched lazily by the system, so blocks cost nothing until used.
class KvStore {
 public:
  struct Slot {
    ops::KvLayout layout;
    const ops::Memory* memory = nullptr;
  };
  // slot_of: of each layer.
  KvStore(std::vector<Slot> slots, std::vector<int32_t> slot_of, int32_t n_blocks);

  int32_t n_blocks() const { return n_blocks_; }
  int n_layers() const { return static_cast<int>(slot_of_.size()); }
  const ops::KvLayout& layout(int layer) const { return slots_[slot(layer)].layout; }
  std::byte* layer_data(int layer) { return data_[slot(layer)]; }

  // Copies one block in every slot (copy-on-write).
  void copy_block(int32_t from, int32_t to);

 private:
  size_t slot(int layer) const { return static_cast<size_t>(slot_of_[static_cast<size_t>(layer)]); }

  std::vector<Slot> slots_;
  std::vector<int32_t> slot_of_;
  std::vector<std::byte*> data_;  // of each slot
  int32_t n_blocks_ = 0;
  std::vector<Buffer> buffers_;  // one for each memory
};

}  // namespace halfbyte::cache
