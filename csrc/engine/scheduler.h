// Decides which rows of which sequences run next. Pure: no clock, no thread, no tensor; queues and budgets in, a plan
// out.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <unordered_map>
#include <vector>

#include "cache/block_pool.h"
#include "cache/prefix_tree.h"
#include "ops/ops.h"

namespace halfbyte::engine {

struct SchedulerLimits {
  int64_t n_batch = 512;       // rows of a step
  int64_t max_sequences = 64;  // running at once
  bool prefix_cache = true;
};

// Rows of one sequence in a step: tokens [first_position, first_position + n_rows), one role.
struct PlannedRows {
  uint64_t id = 0;
  int64_t first_position = 0;
  int64_t n_rows = 0;
  ops::Role role = ops::Role::prefill;
  bool wants_logits = false;  // its last row is the sequence's newest token
};

// A sequence's rows keep the role of their token for ever: prompt tokens prefill, generated ones decode, also when a
// preempted sequence is computed again. So preemption, chunking and batch mix never change a result.
class Scheduler {
 public:
  Scheduler(cache::BlockPool& pool, SchedulerLimits limits);

  // max_rows bounds the rows of one step (0: n_batch): sequences that want logits of every row keep it small.
  void add(uint64_t id, std::vector<int32_t> prompt, int32_t priority, int64_t max_rows = 0);
  // A sampled token; it is computed in a later step.
  void append(uint64_t id, int32_t token);
  // Replaces all tokens (sliding context): everything is computed again, as a prompt.
  void restart(uint64_t id, std::vector<int32_t> tokens);
  // Ends a sequence; its whole blocks stay known to the prefix tree.
  void finish(uint64_t id);

  // The next step's rows; empty when nothing can run. Blocks for them are allocated.
  std::vector<PlannedRows> plan();
  // Marks a plan's rows as computed.
  void complete(const std::vector<PlannedRows>& plan);

  std::span<const int32_t> tokens(uint64_t id) const { return sequences_.at(id).tokens; }
  std::span<const int32_t> block_table(uint64_t id) const { return sequences_.at(id).blocks; }
  int64_t n_computed(uint64_t id) const { return sequences_.at(id).n_computed; }
  int64_t n_cached(uint64_t id) const { return sequences_.at(id).n_cached; }

  int64_t n_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t n_preemptions() const { return n_preemptions_; }
  int64_t n_cached_blocks() const { return tree_.n_blocks(); }
  // Drops what the prefix tree remembers and nobody uses.
  void forget_prefixes() { tree_.evict(INT64_MAX); }
  // Throws when pool, tree and sequences disagree about who holds which block.
  void check_integrity() const;

 private:
  struct Sequence {
    uint64_t id = 0;
    std::vector<int32_t> tokens;
    int64_t n_prompt = 0;
    int64_t n_computed = 0;
    int64_t n_cached = 0;  // of the prompt, found in the prefix tree
    int64_t max_rows = 0;
    int32_t priority = 0;
    uint64_t arrival = 0;
    std::vector<int32_t> blocks;
    int64_t n_known_blocks = 0;  // handed to the prefix tree
  };

  bool is_before(const Sequence& a, const Sequence& b) const;
  void enqueue(uint64_t id);
  bool admit(Sequence& sequence);
  bool reserve(Sequence& sequence, int64_t n_tokens);
  int32_t allocate();
  void release_blocks(Sequence& sequence);
  void remember(Sequence& sequence);
  bool preempt_after(const Sequence& keep);
  int64_t schedule(Sequence& sequence, int64_t budget, std::vector<PlannedRows>& plan);

  cache::BlockPool& pool_;
  cache::PrefixTree tree_;
  SchedulerLimits limits_;
  std::unordered_map<uint64_t, Sequence> sequences_;
  std::list<uint64_t> waiting_;    // best first
  std::vector<uint64_t> running_;  // best first
  uint64_t n_arrivals_ = 0;
  int64_t n_preemptions_ = 0;
};

}  // namespace halfbyte::engine
