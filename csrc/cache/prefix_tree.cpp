// Walks, inserts, evicts.
#include "cache/prefix_tree.h"

#include <algorithm>

namespace halfbyte::cache {

PrefixTree::Run PrefixTree::run_at(std::span<const int32_t> tokens, size_t block) {
  Run run;
  std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(block * run.size()), run.size(), run.begin());
  return run;
}

std::vector<int32_t> PrefixTree::match(std::span<const int32_t> tokens, int32_t variant) {
  std::vector<int32_t> blocks;
  int32_t node = -1 - variant;
  ++clock_;
  for (size_t i = 0; (i + 1) * ops::kKvBlockTokens <= tokens.size(); ++i) {
    const auto found = children_.find({node, run_at(tokens, i)});
    if (found == children_.end()) break;
    node = found->second;
    Node& known = nodes_[static_cast<size_t>(node)];
    known.last_used = clock_;
    pool_.add_ref(known.block);
    blocks.push_back(known.block);
  }
  return blocks;
}

int64_t PrefixTree::n_known(std::span<const int32_t> tokens, int32_t variant) const {
  int32_t node = -1 - variant;
  size_t n = 0;
  for (; (n + 1) * ops::kKvBlockTokens <= tokens.size(); ++n) {
    const auto found = children_.find({node, run_at(tokens, n)});
    if (found == children_.end()) break;
    node = found->second;
  }
  return static_cast<int64_t>(n);
}

void PrefixTree::insert(std::span<const int32_t> tokens, std::span<const int32_t> blocks, int32_t variant) {
  int32_t parent = -1 - variant;
  ++clock_;
  for (size_t i = 0; (i + 1) * ops::kKvBlockTokens <= tokens.size() && i < blocks.size(); ++i) {
    const Run run = run_at(tokens, i);
    const auto found = children_.find({parent, run});
    if (found != children_.end()) {
      parent = found->second;
      nodes_[static_cast<size_t>(parent)].last_used = clock_;
      continue;
    }
    int32_t node = static_cast<int32_t>(nodes_.size());
    if (unused_.empty()) {
      nodes_.emplace_back();
    } else {
      node = unused_.back();
      unused_.pop_back();
    }
    pool_.add_ref(blocks[i]);
    nodes_[static_cast<size_t>(node)] = {parent, blocks[i], 0, clock_, run};
    if (parent >= 0) ++nodes_[static_cast<size_t>(parent)].n_children;
    children_.emplace(std::pair{parent, run}, node);
    parent = node;
  }
}

int64_t PrefixTree::n_evictable() const {
  return std::count_if(nodes_.begin(), nodes_.end(),
                       [&](const Node& n) { return n.block >= 0 && pool_.ref_count(n.block) == 1; });
}

int64_t PrefixTree::evict(int64_t n) {
  int64_t n_freed = 0;
  while (n_freed < n) {
    // All leaves that can go, oldest first; freeing them may make leaves of their parents, hence the outer loop.
    std::vector<std::pair<uint64_t, int32_t>> leaves;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const Node& node = nodes_[i];
      if (node.block >= 0 && node.n_children == 0 && pool_.ref_count(node.block) == 1)
        leaves.emplace_back(node.last_used, static_cast<int32_t>(i));
    }
    if (leaves.empty()) break;
    std::sort(leaves.begin(), leaves.end());
    for (const auto& [used, index] : leaves) {
      if (n_freed == n) break;
      Node& node = nodes_[static_cast<size_t>(index)];
      children_.erase({node.parent, node.run});
      if (node.parent >= 0) --nodes_[static_cast<size_t>(node.parent)].n_children;
      pool_.release(node.block);
      node.block = -1;
      unused_.push_back(index);
      ++n_freed;
    }
  }
  return n_freed;
}

void PrefixTree::count_refs(std::vector<int32_t>& refs) const {
  for (const Node& node : nodes_) {
    if (node.block >= 0) ++refs[static_cast<size_t>(node.block)];
  }
}

}  // namespace halfbyte::cache
