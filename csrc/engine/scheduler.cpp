// Decode rows first, then prefill chunks, then admissions; preemption from the tail when blocks run out.
#include "engine/scheduler.h"

#include <algorithm>

#include "base/error.h"

namespace halfbyte::engine {

namespace {
constexpr int64_t kBlock = ops::kKvBlockTokens;
int64_t blocks_for(int64_t n_tokens) {
  return (n_tokens + kBlock - 1) / kBlock;
}
}  // namespace

Scheduler::Scheduler(cache::BlockPool& pool, SchedulerLimits limits) : pool_(pool), tree_(pool), limits_(limits) {
  require(limits.n_batch >= 1 && limits.max_sequences >= 1,
          "A scheduler needs at least one row and one sequence a step.");
}

bool Scheduler::is_before(const Sequence& a, const Sequence& b) const {
  return a.priority > b.priority || (a.priority == b.priority && a.arrival < b.arrival);
}

void Scheduler::enqueue(uint64_t id) {
  const Sequence& sequence = sequences_.at(id);
  const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](uint64_t other) { return is_before(sequence, sequences_.at(other)); });
  waiting_.insert(place, id);
}

void Scheduler::add(uint64_t id, std::vector<int32_t> prompt, int32_t priority, int64_t max_rows) {
  require(!prompt.empty(), "A prompt needs at least one token.");
  require(!sequences_.contains(id), "Sequence %llu exists already.", static_cast<unsigned long long>(id));
  Sequence& sequence = sequences_[id];
  sequence.id = id;
  sequence.n_prompt = static_cast<int64_t>(prompt.size());
  sequence.tokens = std::move(prompt);
  sequence.max_rows = max_rows > 0 ? max_rows : limits_.n_batch;
  sequence.priority = priority;
  sequence.arrival = n_arrivals_++;
  enqueue(id);
}

void Scheduler::append(uint64_t id, int32_t token) {
  sequences_.at(id).tokens.push_back(token);
}

void Scheduler::restart(uint64_t id, std::vector<int32_t> tokens) {
  Sequence& sequence = sequences_.at(id);
  release_blocks(sequence);
  sequence.n_prompt = static_cast<int64_t>(tokens.size());
  sequence.tokens = std::move(tokens);
}

void Scheduler::finish(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  remember(found->second);
  release_blocks(found->second);
  waiting_.remove(id);
  std::erase(running_, id);
  sequences_.erase(found);
}

void Scheduler::release_blocks(Sequence& sequence) {
  for (const int32_t block : sequence.blocks) pool_.release(block);
  sequence.blocks.clear();
  sequence.n_computed = 0;
  sequence.n_known_blocks = 0;
}

// Tells the prefix tree about blocks that are full and computed.
void Scheduler::remember(Sequence& sequence) {
  const int64_t n_full = sequence.n_computed / kBlock;
  if (!limits_.prefix_cache || n_full <= sequence.n_known_blocks) return;
  const std::span<const int32_t> tokens(sequence.tokens);
  tree_.insert(tokens.first(static_cast<size_t>(n_full * kBlock)), sequence.blocks);
  sequence.n_known_blocks = n_full;
}

int32_t Scheduler::allocate() {
  const int32_t block = pool_.allocate();
  if (block >= 0 || tree_.evict(std::max<int64_t>(1, pool_.n_blocks() / 64)) == 0) return block;
  return pool_.allocate();
}

// Blocks for the sequence's first n_tokens; false (and nothing kept beyond what it got) when the pool is exhausted.
bool Scheduler::reserve(Sequence& sequence, int64_t n_tokens) {
  while (static_cast<int64_t>(sequence.blocks.size()) < blocks_for(n_tokens)) {
    const int32_t block = allocate();
    if (block < 0) return false;
    sequence.blocks.push_back(block);
  }
  return true;
}

// Preempts the last running sequence that stands behind `keep`; false when there is none.
bool Scheduler::preempt_after(const Sequence& keep) {
  if (running_.empty() || running_.back() == keep.id) return false;
  Sequence& victim = sequences_.at(running_.back());
  running_.pop_back();
  remember(victim);
  release_blocks(victim);
  enqueue(victim.id);
  ++n_preemptions_;
  return true;
}

// Takes a waiting sequence in when its known tokens and one more fit now.
bool Scheduler::admit(Sequence& sequence) {
  if (limits_.prefix_cache && sequence.n_computed == 0 && sequence.blocks.empty()) {
    // The newest token is always computed: its logits are wanted.
    const std::span<const int32_t> reusable =
        std::span<const int32_t>(sequence.tokens).first(sequence.tokens.size() - 1);
    sequence.blocks = tree_.match(reusable);
    sequence.n_computed = static_cast<int64_t>(sequence.blocks.size()) * kBlock;
    sequence.n_known_blocks = static_cast<int64_t>(sequence.blocks.size());
    sequence.n_cached = std::min(sequence.n_computed, sequence.n_prompt);
  }
  const int64_t n_needed =
      blocks_for(static_cast<int64_t>(sequence.tokens.size()) + 1) - static_cast<int64_t>(sequence.blocks.size());
  if (n_needed > pool_.n_free() + tree_.n_evictable()) {
    release_blocks(sequence);
    return false;
  }
  return true;
}

// Plans up to `budget` rows of a running sequence; returns how many. -1: preempted itself for want of blocks.
int64_t Scheduler::schedule(Sequence& sequence, int64_t budget, std::vector<PlannedRows>& plan) {
  const auto n_tokens = static_cast<int64_t>(sequence.tokens.size());
  const int64_t n_rows = std::min({n_tokens - sequence.n_computed, budget, sequence.max_rows});
  if (n_rows <= 0) return 0;
  const int64_t begin = sequence.n_computed, end = begin + n_rows;
  while (!reserve(sequence, end)) {
    if (preempt_after(sequence)) continue;
    std::erase(running_, sequence.id);
    remember(sequence);
    release_blocks(sequence);
    enqueue(sequence.id);
    ++n_preemptions_;
    return -1;
  }
  const int64_t split = std::clamp(sequence.n_prompt, begin, end);
  if (begin < split) plan.push_back({sequence.id, begin, split - begin, ops::Role::prefill, split == n_tokens});
  if (split < end) plan.push_back({sequence.id, split, end - split, ops::Role::decode, end == n_tokens});
  return n_rows;
}

std::vector<PlannedRows> Scheduler::plan() {
  std::vector<PlannedRows> plan;
  int64_t budget = limits_.n_batch;
  const auto is_decoding = [&](uint64_t id) {
    const Sequence& s = sequences_.at(id);
    return s.n_computed >= s.n_prompt && static_cast<int64_t>(s.tokens.size()) - s.n_computed == 1;
  };
  // A preemption takes sequences off the end of running_, never one that is planned already: those stand before.
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0;) {
      const uint64_t id = running_[i];
      if (is_decoding(id) != decoding) {
        ++i;
        continue;
      }
      const int64_t n_rows = schedule(sequences_.at(id), budget, plan);
      if (n_rows >= 0) budget -= n_rows, ++i;
    }
    std::erase_if(plan, [&](const PlannedRows& rows) {
      return std::find(running_.begin(), running_.end(), rows.id) == running_.end();
    });
  }
  while (budget > 0 && !waiting_.empty() && n_running() < limits_.max_sequences) {
    Sequence& sequence = sequences_.at(waiting_.front());
    if (!admit(sequence)) break;
    waiting_.pop_front();
    const auto place = std::find_if(running_.begin(), running_.end(),
                                    [&](uint64_t other) { return is_before(sequence, sequences_.at(other)); });
    running_.insert(place, sequence.id);
    const int64_t n_rows = schedule(sequence, budget, plan);
    if (n_rows < 0) break;
    budget -= n_rows;
  }
  std::erase_if(plan, [&](const PlannedRows& rows) {
    return std::find(running_.begin(), running_.end(), rows.id) == running_.end();
  });
  return plan;
}

void Scheduler::complete(const std::vector<PlannedRows>& plan) {
  for (const PlannedRows& rows : plan) {
    const auto found = sequences_.find(rows.id);
    if (found == sequences_.end() || found->second.n_computed != rows.first_position) continue;
    found->second.n_computed += rows.n_rows;
    remember(found->second);
  }
}

void Scheduler::check_integrity() const {
  std::vector<int32_t> refs(static_cast<size_t>(pool_.n_blocks()), 0);
  tree_.count_refs(refs);
  for (const auto& [id, sequence] : sequences_) {
    for (const int32_t block : sequence.blocks) ++refs[static_cast<size_t>(block)];
  }
  pool_.check_integrity(refs);
}

}  // namespace halfbyte::engine
