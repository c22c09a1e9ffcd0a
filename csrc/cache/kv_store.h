// The bytes of keys and values: for each slot an array of KV blocks (layout: ops/kv_layout.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "cache/kv_places.h"
#include "ops/kv_layout.h"
#include "ops/memory.h"

namespace halfbyte::cache {

// Which group of layers a block serves, its holder decides (model/kv_groups.h). Memory is reserved at once and touched
// lazily by the system, so blocks cost nothing until used.
class KvStore {
 public:
  KvStore(const std::vector<KvLayer>& layers, int32_t n_blocks);

  int32_t n_blocks() const { return n_blocks_; }
  int n_layers() const { return static_cast<int>(layers_.size()); }
  const ops::KvLayout& layout(int layer) const { return layers_[static_cast<size_t>(layer)].layout; }
  std::byte* layer_data(int layer) { return layers_[static_cast<size_t>(layer)].data; }

  // Copies one block in every slot (copy-on-write).
  void copy_block(int32_t from, int32_t to);

 private:
  struct Layer {
    ops::KvLayout layout;
    std::byte* data = nullptr;
  };
  struct Slot {
    const ops::Memory* memory = nullptr;
    int64_t n_bytes = 0;  // of each block
    std::byte* data = nullptr;
  };
  std::vector<Layer> layers_;
  std::vector<Slot> slots_;
  int32_t n_blocks_ = 0;
  std::vector<Buffer> buffers_;  // one for each memory
};

}  // namespace halfbyte::cache
