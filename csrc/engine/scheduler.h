// Decides which rows of which sequences run next. Pure: no clock, no thread, no tensor; queues and budgets in, a plan
// out.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/block_pool.h"
#include "cache/block_tables.h"
#include "cache/prefix_tree.h"
#include "ops/ops.h"

namespace halfbyte::engine {

struct SchedulerLimits {
  int64_t n_batch = 512;        // rows of a step
  int64_t max_sequences = 64;   // running at once
  int64_t max_logit_rows = 64;  // rows of a step whose logits are wanted; at least max_sequences
  bool prefix_cache = true;
  std::vector<int64_t> windows = {0};  // of each group of layers that has blocks of its own; 0: they see everything
};

struct SequenceSpec {
  std::vector<int32_t> prompt;
  int32_t priority = 0;      // higher first; may push lower ones out
  uint64_t client = 0;       // clients take turns
  int32_t variant = 0;       // whose keys and values it may share (see PrefixTree)
  bool every_row = false;    // something of every prompt row is wanted, so that none may come from the prefix tree
  bool every_logit = false;  // logits of every prompt row are wanted, not only the newest token's; implies every_row
  bool no_logits = false;    // not even the newest token's
  bool is_passing = false;   // leaves nothing in the prefix tree
};

// Rows of one sequence in a step: tokens [first_position, first_position + n_rows), one role.
struct PlannedRows {
  uint64_t id = 0;
  int64_t first_position = 0;
  int64_t n_rows = 0;
  ops::Role role = ops::Role::prefill;
  int64_t n_logits = 0;    // the last so many rows' logits are wanted
  bool is_newest = false;  // ends with the sequence's newest token (drafts included)
};

// A copy of one KV block that the caller has to make at once.
struct BlockCopy {
  int32_t from = -1, to = -1;
};

// Sequences with one token to compute (streams) come first in every step. The rest of the step reads prompts: of the
// client that had least so far the one with the fewest rows left, where waiting counts as rows, so that short prompts
// pass long ones and long ones are not passed for ever.
//
// Layers with a window have tables of their own: blocks that no row will look at again go back to the pool.
//
// A sequence's rows keep the role of their token for ever: prompt tokens prefill, generated ones decode, also when a
// preempted sequence is computed again. So preemption, chunking and batch mix never change a result.
class Scheduler {
 public:
  Scheduler(cache::BlockPool& pool, SchedulerLimits limits);

  void add(uint64_t id, SequenceSpec spec);
  // A token that was drawn; it is computed in a later step. True when it is the next draft: then it is computed
  // already, as are the drafts behind it; else the drafts are dropped.
  bool append(uint64_t id, int32_t token);
  // Guesses of the next tokens, computed along with the newest token as far as budgets allow.
  void draft(uint64_t id, std::span<const int32_t> tokens);
  // Replaces all tokens (sliding context): everything is computed again, as a prompt.
  void restart(uint64_t id, std::vector<int32_t> tokens);
  // A new sequence with the tokens of `id`: whole blocks are shared, those being filled are copied, or computed again
  // when there are no blocks for the copies.
  std::vector<BlockCopy> fork(uint64_t id, uint64_t new_id);
  // Ends a sequence; its whole blocks stay known to the prefix tree.
  void finish(uint64_t id);

  // The next step's rows, prefill first; empty when nothing can run. Blocks for them are allocated. prefill_rows
  // bounds the prompt rows of a step that also serves streams.
  std::vector<PlannedRows> plan(int64_t prefill_rows = INT64_MAX);
  // Marks a plan's rows as computed.
  void complete(const std::vector<PlannedRows>& plan);

  std::span<const int32_t> tokens(uint64_t id) const { return sequences_.at(id).tokens; }  // drafts included
  const cache::BlockTables& block_tables(uint64_t id) const { return sequences_.at(id).tables; }
  int64_t n_computed(uint64_t id) const { return sequences_.at(id).n_computed; }
  int64_t n_cached(uint64_t id) const { return sequences_.at(id).n_cached; }
  int64_t n_drafts(uint64_t id) const { return sequences_.at(id).n_drafts; }
  // Running, and only its newest token (and drafts) is still to be computed.
  bool is_streaming(uint64_t id) const { return is_streaming(sequences_.at(id)); }

  int64_t n_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t n_streaming() const;
  int64_t n_preemptions() const { return n_preemptions_; }
  int64_t n_cached_blocks() const { return tree_.n_blocks(); }
  // Drops what the prefix tree remembers and nobody uses.
  void forget_prefixes() { tree_.evict(INT64_MAX); }
  // Throws when pool, tree and sequences disagree about who holds which block.
  void check_integrity() const;

 private:
  struct Sequence {
    uint64_t id = 0;
    SequenceSpec spec;            // prompt moved to tokens
    std::vector<int32_t> tokens;  // prompt, drawn tokens, drafts
    int64_t n_prompt = 0;
    int64_t n_drafts = 0;
    int64_t n_computed = 0;
    int64_t n_read = 0;           // the most that were ever computed
    int64_t n_cached = 0;         // of the prompt, found in the prefix tree
    int64_t n_expected = 0;       // computed tokens that the prefix tree had when the sequence began to wait
    int64_t n_passed_over = 0;    // times that others were admitted while this one had no room
    uint64_t arrival = 0;         // order of add()
    int64_t rows_at_arrival = 0;  // prompt rows planned before it came
    bool is_running = false;
    cache::BlockTables tables;
    int64_t n_known_blocks = 0;  // of each group, handed to the prefix tree

    int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
    int64_t n_settled() const { return n_tokens() - n_drafts; }
  };
  struct Client {
    int64_t n_sequences = 0;
    int64_t served = 0;  // rows, a stream's counted dearer
  };
  struct Step;  // a plan in the making

  static bool is_streaming(const Sequence& s) {
    return s.is_running && s.n_computed >= s.n_prompt && s.n_settled() - s.n_computed == 1;
  }
  static bool outlasts(const Sequence& a, const Sequence& b);  // who keeps its blocks when they run out
  bool precedes(const Sequence& a, const Sequence& b) const;   // who reads its prompt first
  Sequence& insert(uint64_t id, Sequence sequence);
  void run(Sequence& sequence);
  void wait(Sequence& sequence);
  void preempt(Sequence& sequence);
  bool preempt_last(const Sequence& keep, bool only_lower_priority);

  bool is_being_computed(const Sequence& sequence) const;
  std::span<const int32_t> reusable(const Sequence& sequence) const;
  int64_t n_wanted(const Sequence& sequence) const;
  bool has_room(const Sequence& sequence) const;
  bool admit(Sequence& sequence);
  void plan_streams(Step& step);
  void plan_prompts(Step& step);
  void add_rows(Sequence& sequence, int64_t n_rows, Step& step);

  int32_t allocate();
  bool reserve(Sequence& sequence, int64_t n_tokens);
  bool reserve_or_preempt(Sequence& sequence, int64_t n_tokens);
  void release_blocks(Sequence& sequence);
  void remember(Sequence& sequence);
  void give_back(Sequence& sequence);

  cache::BlockPool& pool_;
  cache::PrefixTree tree_;
  SchedulerLimits limits_;
  std::unordered_map<uint64_t, Sequence> sequences_;
  std::vector<uint64_t> waiting_;
  std::vector<uint64_t> running_;  // those that outlast others first
  std::map<uint64_t, Client> clients_;
  uint64_t n_arrivals_ = 0;
  int64_t n_prompt_rows_ = 0;  // planned so far: the clock by which waiting is measured
  int64_t n_preemptions_ = 0;
};

}  // namespace halfbyte::engine
