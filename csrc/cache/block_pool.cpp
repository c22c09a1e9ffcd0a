// A stack of free ids and an array of reference counts.
#include "cache/block_pool.h"

#include "base/error.h"

namespace halfbyte::cache {

BlockPool::BlockPool(int32_t n_blocks) {
  require(n_blocks >= 0, "A block pool of %d blocks.", n_blocks);
  ref_counts_.assign(static_cast<size_t>(n_blocks), 0);
  for (int32_t block = n_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockPool::allocate() {
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  ref_counts_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::add_ref(int32_t block) {
  require(ref_count(block) > 0, "KV block %d is free and cannot be shared.", block);
  ++ref_counts_[static_cast<size_t>(block)];
}

void BlockPool::release(int32_t block) {
  require(ref_count(block) > 0, "KV block %d is free already.", block);
  if (--ref_counts_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

int32_t BlockPool::ref_count(int32_t block) const {
  require(block >= 0 && block < n_blocks(), "KV block %d of %d.", block, n_blocks());
  return ref_counts_[static_cast<size_t>(block)];
}

void BlockPool::check_integrity(const std::vector<int32_t>& expected_refs) const {
  std::vector<bool> is_free(ref_counts_.size(), false);
  for (const int32_t block : free_) {
    require(block >= 0 && block < n_blocks() && !is_free[static_cast<size_t>(block)],
            "KV block %d is on the free list twice.", block);
    is_free[static_cast<size_t>(block)] = true;
  }
  for (int32_t block = 0; block < n_blocks(); ++block) {
    const int32_t count = ref_counts_[static_cast<size_t>(block)];
    require((count == 0) == is_free[static_cast<size_t>(block)],
            "KV block %d has %d references and is%s on the free list.", block, count,
            is_free[static_cast<size_t>(block)] ? "" : " not");
    if (!expected_refs.empty()) {
      require(count == expected_refs[static_cast<size_t>(block)], "KV block %d has %d references; its users hold %d.",
              block, count, expected_refs[static_cast<size_t>(block)]);
    }
  }
}

}  // namespace halfbyte::cache
