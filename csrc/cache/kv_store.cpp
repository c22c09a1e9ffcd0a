// One allocation for all slots of a memory; blocks move as whole pieces.
#include "cache/kv_store.h"

#include "base/error.h"

namespace halfbyte::cache {

KvStore::KvStore(const std::vector<KvLayer>& layers, int32_t n_blocks) : n_blocks_(n_blocks) {
  const KvPlaces places = kv_places(layers);
  for (const KvPlaces::Slot& slot : places.slots) slots_.push_back({slot.memory, slot.n_bytes});
  // The slots of a memory come one after another.
  for (size_t begin = 0, end = 0; begin < slots_.size(); begin = end) {
    const ops::Memory* memory = slots_[begin].memory;
    while (end < slots_.size() && slots_[end].memory == memory) ++end;
    int64_t total = 0;
    const bool overflow = __builtin_mul_overflow(places.block_bytes(*memory), int64_t{n_blocks}, &total);
    require(!overflow, "A KV cache of %d blocks is larger than any memory.", n_blocks);
    buffers_.push_back(memory->allocate(static_cast<size_t>(total), "The KV cache"));
    std::byte* data = buffers_.back().data();
    for (size_t i = begin; i < end; ++i) {
      slots_[i].data = data;
      data += slots_[i].n_bytes * n_blocks;
    }
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    const KvPlaces::Place& place = places.layers[l];
    const Slot& slot = slots_[static_cast<size_t>(place.slot)];
    layers_.push_back({layers[l].layout, slot.data + place.offset});
    layers_.back().layout.block_stride = slot.n_bytes;
  }
}

void KvStore::copy_block(int32_t from, int32_t to) {
  for (const Slot& slot : slots_) {
    slot.memory->copy(slot.data + to * slot.n_bytes, slot.data + from * slot.n_bytes,
                      static_cast<size_t>(slot.n_bytes));
  }
}

}  // namespace halfbyte::cache
