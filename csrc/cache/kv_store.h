// The bytes of keys and values: for each layer an array of KV blocks (layout: ops/kv_layout.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "ops/kv_layout.h"
#include "ops/memory.h"

namespace halfbyte::cache {

// Layers may differ (window layers, MLA); all share block ids. Memory is reserved at once and touched lazily by the
// system, so blocks cost nothing until used.
class KvStore {
 public:
  // memories: where each layer's blocks lie; empty: all in the host's.
  KvStore(std::vector<ops::KvLayout> layers, int32_t n_blocks, std::vector<const ops::Memory*> memories = {});

  int32_t n_blocks() const { return n_blocks_; }
  int n_layers() const { return static_cast<int>(layers_.size()); }
  const ops::KvLayout& layout(int layer) const { return layers_[static_cast<size_t>(layer)]; }
  std::byte* layer_data(int layer) { return places_[static_cast<size_t>(layer)].data; }

  // Copies one block in every layer (copy-on-write).
  void copy_block(int32_t from, int32_t to);
  // Bytes of one block over all layers, and moving them out and in (sessions on disk).
  int64_t block_bytes() const;
  void save_block(int32_t block, std::span<std::byte> out) const;
  void restore_block(int32_t block, std::span<const std::byte> in);

 private:
  std::vector<ops::KvLayout> layers_;
  struct Place {
    const ops::Memory* memory;
    std::byte* data;
  };
  std::vector<Place> places_;  // per layer
  int32_t n_blocks_ = 0;
  std::vector<Buffer> buffers_;  // one for each memory
};

}  // namespace halfbyte::cache
