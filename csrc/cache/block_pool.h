// Which KV blocks are free, used and shared. Integers only: no tensor, no byte, no token.
#pragma once

#include <cstdint>
#include <vector>

namespace halfbyte::cache {

// Hands out ids 0..n_blocks-1 with reference counts. Not thread-safe: the engine thread owns it.
class BlockPool {
 public:
  explicit BlockPool(int32_t n_blocks);

  int32_t n_blocks() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t n_free() const { return static_cast<int32_t>(free_.size()); }

  // A free block with reference count 1, or -1 when there is none.
  int32_t allocate();
  void add_ref(int32_t block);
  // Drops one reference; the block is free again at zero.
  void release(int32_t block);
  int32_t ref_count(int32_t block) const;

  // Throws Error(invalid_argument) when free list and counts disagree, or the counts differ from `expected_refs`
  // (how many references the caller knows of, per block) when it is not empty.
  void check_integrity(const std::vector<int32_t>& expected_refs = {}) const;

 private:
  std::vector<int32_t> ref_counts_;
  std::vector<int32_t> free_;  // stack: the most recently freed block is reused first (still in cache)
};

}  // namespace halfbyte::cache
