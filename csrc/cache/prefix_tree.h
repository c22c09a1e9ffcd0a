// Which runs of tokens have their keys and values in the pool: a tree of whole KV blocks. Integers only.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "cache/block_pool.h"
#include "ops/kv_layout.h"

namespace halfbyte::cache {

// Each node is one full block and the path to it spells the tokens before it (the idea of RadixAttention, Zheng et al.
// 2023, at block grain). The tree holds one reference on each block; leaves that nobody else uses are evicted oldest
// first. Not thread-safe: the engine thread owns it.
class PrefixTree {
 public:
  explicit PrefixTree(BlockPool& pool) : pool_(pool) {}

  // The blocks of the longest known run of whole blocks that `tokens` starts with; each gets a reference for the
  // caller. Keys and values of one variant of the model (0: the plain one, else an adapter set) serve no other.
  std::vector<int32_t> match(std::span<const int32_t> tokens, int32_t variant = 0);

  // How many blocks match() would give.
  int64_t n_known(std::span<const int32_t> tokens, int32_t variant = 0) const;

  // Makes the whole blocks of `tokens` known; blocks[i] holds tokens 16i..16i+15. Runs that are known already stay as
  // they are.
  void insert(std::span<const int32_t> tokens, std::span<const int32_t> blocks, int32_t variant = 0);

  // Frees up to n blocks; returns how many were freed.
  int64_t evict(int64_t n);

  int64_t n_blocks() const { return static_cast<int64_t>(nodes_.size() - unused_.size()); }
  // Blocks of which the tree holds the only reference.
  int64_t n_evictable() const;
  // One per node, for BlockPool::check_integrity.
  void count_refs(std::vector<int32_t>& refs) const;

 private:
  using Run = std::array<int32_t, ops::kKvBlockTokens>;
  struct Node {
    int32_t parent = -1;  // a first block's: -1 - variant
    int32_t block = -1;   // -1: unused slot
    int32_t n_children = 0;
    uint64_t last_used = 0;
    Run run{};
  };
  static Run run_at(std::span<const int32_t> tokens, size_t block);

  BlockPool& pool_;
  std::vector<Node> nodes_;
  std::vector<int32_t> unused_;
  std::map<std::pair<int32_t, Run>, int32_t> children_;  // (parent, run) -> node
  uint64_t clock_ = 0;                                   // counts uses, not time
};

}  // namespace halfbyte::cache
