// One allocation for all layers; blocks move as whole pieces.
#include "cache/kv_store.h"

#include <cstring>

#include "base/error.h"

namespace halfbyte::cache {

KvStore::KvStore(std::vector<ops::KvLayout> layers, int32_t n_blocks)
    : layers_(std::move(layers)), n_blocks_(n_blocks) {
  int64_t total = 0;
  for (const ops::KvLayout& layout : layers_) {
    offsets_.push_back(total);
    int64_t layer_bytes = 0;
    const bool overflow = __builtin_mul_overflow(layout.block_bytes(), int64_t{n_blocks}, &layer_bytes) ||
                          __builtin_add_overflow(total, (layer_bytes + 63) / 64 * 64, &total);
    require(!overflow, "A KV cache of %d blocks is larger than any memory.", n_blocks);
  }
  data_ = Buffer(static_cast<size_t>(total), "The KV cache");
}

int64_t KvStore::block_bytes() const {
  int64_t bytes = 0;
  for (const ops::KvLayout& layout : layers_) bytes += layout.block_bytes();
  return bytes;
}

void KvStore::copy_block(int32_t from, int32_t to) {
  for (int layer = 0; layer < n_layers(); ++layer) {
    const int64_t bytes = layout(layer).block_bytes();
    std::memcpy(layer_data(layer) + to * bytes, layer_data(layer) + from * bytes, static_cast<size_t>(bytes));
  }
}

void KvStore::save_block(int32_t block, std::span<std::byte> out) const {
  require(static_cast<int64_t>(out.size()) == block_bytes(), "A KV block takes %lld bytes, not %zu.",
          static_cast<long long>(block_bytes()), out.size());
  std::byte* to = out.data();
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t bytes = layers_[layer].block_bytes();
    std::memcpy(to, data_.data() + offsets_[layer] + block * bytes, static_cast<size_t>(bytes));
    to += bytes;
  }
}

void KvStore::restore_block(int32_t block, std::span<const std::byte> in) {
  require(static_cast<int64_t>(in.size()) == block_bytes(), "A KV block takes %lld bytes, not %zu.",
          static_cast<long long>(block_bytes()), in.size());
  const std::byte* from = in.data();
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t bytes = layers_[layer].block_bytes();
    std::memcpy(data_.data() + offsets_[layer] + block * bytes, from, static_cast<size_t>(bytes));
    from += bytes;
  }
}

}  // namespace halfbyte::cache
