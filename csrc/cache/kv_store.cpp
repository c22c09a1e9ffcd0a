// One allocation for all slots of a memory; blocks move as whole pieces.
#include "cache/kv_store.h"

#include <algorithm>

#include "base/error.h"

namespace halfbyte::cache {

KvStore::KvStore(std::vector<Slot> slots, std::vector<int32_t> slot_of, int32_t n_blocks)
    : slots_(std::move(slots)), slot_of_(std::move(slot_of)), n_blocks_(n_blocks) {
  std::vector<const ops::Memory*> distinct;
  for (const Slot& slot : slots_) {
    if (std::find(distinct.begin(), distinct.end(), slot.memory) == distinct.end()) distinct.push_back(slot.memory);
  }
  data_.resize(slots_.size());
  for (const ops::Memory* memory : distinct) {
    int64_t total = 0;
    std::vector<int64_t> offsets(slots_.size());
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].memory != memory) continue;
      offsets[i] = total;
      int64_t slot_bytes = 0;
      const bool overflow = __builtin_mul_overflow(slots_[i].layout.block_bytes(), int64_t{n_blocks}, &slot_bytes) ||
                            __builtin_add_overflow(total, (slot_bytes + 63) / 64 * 64, &total);
      require(!overflow, "A KV cache of %d blocks is larger than any memory.", n_blocks);
    }
    buffers_.push_back(memory->allocate(static_cast<size_t>(total), "The KV cache"));
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].memory == memory) data_[i] = buffers_.back().data() + offsets[i];
    }
  }
}

void KvStore::copy_block(int32_t from, int32_t to) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int64_t bytes = slots_[i].layout.block_bytes();
    slots_[i].memory->copy(data_[i] + to * bytes, data_[i] + from * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace halfbyte::cache
