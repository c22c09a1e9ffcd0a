// Which runs of tokens have their keys and values in the pool: a tree of whole KV blocks. Integers only.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "cache/block_pool.h"
#include "cache/block_tables.h"
#include "ops/kv_layout.h"

namespace halfbyte::cache {

// Each node is one run of 16 tokens, with a KV block for each group of layers, and the path to it spells the tokens
// before it (the idea of RadixAttention, Zheng et al. 2023, at block grain). The tree holds one reference on each
// block. What nobody else uses is evicted oldest first: of layers that see everything from the leaves, of layers with a
// window anywhere, and first where a sequence's window has passed and no other sequence has begun since. Not
// thread-safe: the engine thread owns it.
class PrefixTree {
 public:
  // windows: of each group of layers, 0: they see everything.
  explicit PrefixTree(BlockPool& pool, std::vector<int64_t> windows = {0})
      : pool_(pool), windows_(std::move(windows)) {}

  // The blocks of the longest run of whole blocks that `tokens` starts with and that can be gone on from: all groups
  // still have what the next token looks at. Each block gets a reference for the caller; what lies behind a window is
  // left out (-1). Keys and values of one variant of the model (0: the plain one, else an adapter set) serve no other.
  BlockTables match(std::span<const int32_t> tokens, int32_t variant = 0);

  // How many entries the tables of match() would have.
  int64_t n_known(std::span<const int32_t> tokens, int32_t variant = 0) const;

  // Makes the whole blocks of `tokens` known. Runs that are known already keep their blocks, unless nobody but the tree
  // uses them: then the caller's are kept, so that the others are free.
  void insert(std::span<const int32_t> tokens, const BlockTables& tables, int32_t variant = 0);

  // Frees up to n blocks (more when the last come as a group); returns how many were freed.
  int64_t evict(int64_t n);

  int64_t n_blocks() const { return n_blocks_; }
  // Blocks of which the tree holds the only reference.
  int64_t n_evictable() const;
  // One per block held, for BlockPool::check_integrity.
  void count_refs(std::vector<int32_t>& refs) const;

 private:
  using Run = std::array<int32_t, ops::kKvBlockTokens>;
  struct Node {
    int32_t parent = kUnused;  // a first block's: -1 - variant
    int32_t n_children = 0;
    Run run{};
  };
  struct Held {
    int32_t block = -1;
    bool is_branch = false;  // a sequence began here
    uint64_t last_used = 0;
  };
  struct Candidate;
  static constexpr int32_t kUnused = INT32_MIN;

  static Run run_at(std::span<const int32_t> tokens, size_t block);
  std::span<Held> held(int32_t node) {
    return std::span(held_).subspan(static_cast<size_t>(node) * windows_.size(), windows_.size());
  }
  std::span<const Held> held(int32_t node) const {
    return std::span(held_).subspan(static_cast<size_t>(node) * windows_.size(), windows_.size());
  }
  std::vector<int32_t> path(std::span<const int32_t> tokens, int32_t variant) const;
  int32_t find_or_add(int32_t parent, const Run& run);
  std::vector<Candidate> candidates() const;
  int64_t drop(Held& held);
  void remove_if_empty(int32_t node);

  BlockPool& pool_;
  std::vector<int64_t> windows_;
  std::vector<Node> nodes_;
  std::vector<Held> held_;  // (nodes, groups)
  std::vector<int32_t> unused_;
  std::map<std::pair<int32_t, Run>, int32_t> children_;  // (parent, run) -> node
  int64_t n_blocks_ = 0;
  uint64_t clock_ = 0;  // counts uses, not time
};

}  // namespace halfbyte::cache
