// Walks, inserts, evicts.
#include "cache/prefix_tree.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace halfbyte::cache {

// A block that can go, or (group -1) a leaf with all its blocks.
struct PrefixTree::Candidate {
  uint64_t last_used = 0;
  int32_t node = 0;
  int32_t group = 0;
};

PrefixTree::Run PrefixTree::run_at(std::span<const int32_t> tokens, size_t block) {
  Run run;
  std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(block * run.size()), run.size(), run.begin());
  return run;
}

// The nodes of the longest run that can be gone on from.
std::vector<int32_t> PrefixTree::path(std::span<const int32_t> tokens, int32_t variant) const {
  std::vector<int32_t> nodes;
  std::vector<int64_t> n_present(windows_.size(), 0);  // of each group, blocks without a gap up to here
  size_t n_usable = 0;
  int32_t node = -1 - variant;
  for (size_t i = 0; (i + 1) * ops::kKvBlockTokens <= tokens.size(); ++i) {
    const auto found = children_.find({node, run_at(tokens, i)});
    if (found == children_.end()) break;
    node = found->second;
    nodes.push_back(node);
    const auto n = static_cast<int64_t>(nodes.size());
    bool is_usable = true;
    for (size_t g = 0; g < windows_.size(); ++g) {
      n_present[g] = held(node)[g].block >= 0 ? n_present[g] + 1 : 0;
      is_usable = is_usable && n_present[g] >= n - first_seen_block(n * ops::kKvBlockTokens, windows_[g]);
    }
    if (is_usable) n_usable = nodes.size();
  }
  nodes.resize(n_usable);
  return nodes;
}

BlockTables PrefixTree::match(std::span<const int32_t> tokens, int32_t variant) {
  const std::vector<int32_t> nodes = path(tokens, variant);
  const auto next = static_cast<int64_t>(nodes.size()) * ops::kKvBlockTokens;
  BlockTables tables(windows_.size(), std::vector<int32_t>(nodes.size(), -1));
  ++clock_;
  for (size_t g = 0; g < windows_.size(); ++g) {
    for (auto i = static_cast<size_t>(first_seen_block(next, windows_[g])); i < nodes.size(); ++i) {
      Held& known = held(nodes[i])[g];
      known.last_used = clock_;
      known.is_branch = true;
      pool_.add_ref(known.block);
      tables[g][i] = known.block;
    }
  }
  return tables;
}

int64_t PrefixTree::n_known(std::span<const int32_t> tokens, int32_t variant) const {
  return static_cast<int64_t>(path(tokens, variant).size());
}

int32_t PrefixTree::find_or_add(int32_t parent, const Run& run) {
  const auto [place, is_new] = children_.try_emplace({parent, run}, 0);
  if (!is_new) return place->second;
  if (unused_.empty()) {
    unused_.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.emplace_back();
    held_.resize(held_.size() + windows_.size());
  }
  const int32_t node = place->second = unused_.back();
  unused_.pop_back();
  nodes_[static_cast<size_t>(node)] = {parent, 0, run};
  if (parent >= 0) ++nodes_[static_cast<size_t>(parent)].n_children;
  return node;
}

void PrefixTree::insert(std::span<const int32_t> tokens, const BlockTables& tables, int32_t variant) {
  size_t n = tokens.size() / ops::kKvBlockTokens;
  for (const std::vector<int32_t>& table : tables) n = std::min(n, table.size());
  int32_t node = -1 - variant;
  ++clock_;
  for (size_t i = 0; i < n; ++i) {
    node = find_or_add(node, run_at(tokens, i));
    for (size_t g = 0; g < windows_.size(); ++g) {
      Held& known = held(node)[g];
      const int32_t block = tables[g][i];
      if (block >= 0 && block != known.block && (known.block < 0 || pool_.ref_count(known.block) == 1)) {
        pool_.add_ref(block);
        const bool is_branch = known.is_branch;
        drop(known);
        known = {block, is_branch, 0};
        ++n_blocks_;
      }
      const bool is_seen =
          static_cast<int64_t>(i) >= first_seen_block(static_cast<int64_t>(n) * ops::kKvBlockTokens, windows_[g]);
      if (is_seen)
        known.last_used = clock_;
      else if (!known.is_branch)
        known.last_used = 0;
    }
  }
}

int64_t PrefixTree::n_evictable() const {
  return std::count_if(held_.begin(), held_.end(),
                       [&](const Held& h) { return h.block >= 0 && pool_.ref_count(h.block) == 1; });
}

// All that can go, oldest first.
std::vector<PrefixTree::Candidate> PrefixTree::candidates() const {
  std::vector<Candidate> found;
  for (int32_t node = 0; node < static_cast<int32_t>(nodes_.size()); ++node) {
    const Node& n = nodes_[static_cast<size_t>(node)];
    if (n.parent == kUnused) continue;
    const std::span<const Held> blocks = held(node);
    bool sees_all = false, is_used = false;
    uint64_t last_used = 0;
    for (size_t g = 0; g < blocks.size(); ++g) {
      if (blocks[g].block < 0) continue;
      const bool is_free = pool_.ref_count(blocks[g].block) == 1;
      if (windows_[g] > 0) {
        if (is_free) found.push_back({blocks[g].last_used, node, static_cast<int32_t>(g)});
        continue;
      }
      sees_all = true;
      is_used = is_used || !is_free;
      last_used = std::max(last_used, blocks[g].last_used);
    }
    if (sees_all && !is_used && n.n_children == 0) found.push_back({last_used, node, -1});
  }
  std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return std::tuple(a.last_used, a.node, a.group) < std::tuple(b.last_used, b.node, b.group);
  });
  return found;
}

// Gives the tree's reference back; 1 when the block is free now.
int64_t PrefixTree::drop(Held& held) {
  if (held.block < 0) return 0;
  const int64_t n_freed = pool_.ref_count(held.block) == 1 ? 1 : 0;
  pool_.release(held.block);
  held = {};
  --n_blocks_;
  return n_freed;
}

// Nodes without blocks stay only as ways to others.
void PrefixTree::remove_if_empty(int32_t node) {
  while (node >= 0) {
    Node& n = nodes_[static_cast<size_t>(node)];
    const std::span<const Held> blocks = held(node);
    if (n.parent == kUnused || n.n_children > 0 ||
        std::any_of(blocks.begin(), blocks.end(), [](const Held& h) { return h.block >= 0; }))
      return;
    children_.erase({n.parent, n.run});
    unused_.push_back(node);
    node = std::exchange(n.parent, kUnused);
    if (node >= 0) --nodes_[static_cast<size_t>(node)].n_children;
  }
}

int64_t PrefixTree::evict(int64_t n) {
  int64_t n_freed = 0;
  while (n_freed < n) {
    // Freeing leaves may make leaves of their parents, hence the outer loop.
    const std::vector<Candidate> found = candidates();
    if (found.empty()) break;
    for (const Candidate& candidate : found) {
      if (n_freed >= n) break;
      const std::span<Held> blocks = held(candidate.node);
      if (candidate.group >= 0) {
        n_freed += drop(blocks[static_cast<size_t>(candidate.group)]);
      } else {
        for (Held& each : blocks) n_freed += drop(each);
      }
      remove_if_empty(candidate.node);
    }
  }
  return n_freed;
}

void PrefixTree::count_refs(std::vector<int32_t>& refs) const {
  for (const Held& h : held_) {
    if (h.block >= 0) ++refs[static_cast<size_t>(h.block)];
  }
}

}  // namespace halfbyte::cache
