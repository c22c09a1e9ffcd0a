// One allocation for all layers of a memory; blocks move as whole pieces.
#include "cache/kv_store.h"

#include <algorithm>

#include "base/error.h"

namespace halfbyte::cache {

KvStore::KvStore(std::vector<ops::KvLayout> layers, int32_t n_blocks, std::vector<const ops::Memory*> memories)
    : layers_(std::move(layers)), n_blocks_(n_blocks) {
  memories.resize(layers_.size(), &ops::host_memory());
  std::vector<const ops::Memory*> distinct;
  for (const ops::Memory* memory : memories) {
    if (std::find(distinct.begin(), distinct.end(), memory) == distinct.end()) distinct.push_back(memory);
  }
  std::vector<int64_t> offsets(layers_.size());
  for (const ops::Memory* memory : distinct) {
    int64_t total = 0;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      if (memories[layer] != memory) continue;
      offsets[layer] = total;
      int64_t layer_bytes = 0;
      const bool overflow = __builtin_mul_overflow(layers_[layer].block_bytes(), int64_t{n_blocks}, &layer_bytes) ||
                            __builtin_add_overflow(total, (layer_bytes + 63) / 64 * 64, &total);
      require(!overflow, "A KV cache of %d blocks is larger than any memory.", n_blocks);
    }
    buffers_.push_back(memory->allocate(static_cast<size_t>(total), "The KV cache"));
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const auto at = std::find(distinct.begin(), distinct.end(), memories[layer]) - distinct.begin();
    places_.push_back({memories[layer], buffers_[static_cast<size_t>(at)].data() + offsets[layer]});
  }
}

int64_t KvStore::block_bytes() const {
  int64_t bytes = 0;
  for (const ops::KvLayout& layout : layers_) bytes += layout.block_bytes();
  return bytes;
}

void KvStore::copy_block(int32_t from, int32_t to) {
  for (int layer = 0; layer < n_layers(); ++layer) {
    const int64_t bytes = layout(layer).block_bytes();
    const Place& place = places_[static_cast<size_t>(layer)];
    place.memory->copy(place.data + to * bytes, place.data + from * bytes, static_cast<size_t>(bytes));
  }
}

void KvStore::save_block(int32_t block, std::span<std::byte> out) const {
  require(static_cast<int64_t>(out.size()) == block_bytes(), "A KV block takes %lld bytes, not %zu.",
          static_cast<long long>(block_bytes()), out.size());
  std::byte* to = out.data();
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t bytes = layers_[layer].block_bytes();
    places_[layer].memory->download(to, places_[layer].data + block * bytes, static_cast<size_t>(bytes));
    to += bytes;
  }
}

void KvStore::restore_block(int32_t block, std::span<const std::byte> in) {
  require(static_cast<int64_t>(in.size()) == block_bytes(), "A KV block takes %lld bytes, not %zu.",
          static_cast<long long>(block_bytes()), in.size());
  const std::byte* from = in.data();
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t bytes = layers_[layer].block_bytes();
    places_[layer].memory->upload(places_[layer].data + block * bytes, from, static_cast<size_t>(bytes));
    from += bytes;
  }
}

}  // namespace halfbyte::cache
