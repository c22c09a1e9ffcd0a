// Streams first, then prompts by turn; preemption from the end of the running list when blocks run out.
#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace halfbyte::engine {

namespace {

constexpr int64_t kBlock = ops::kKvBlockTokens;
constexpr int64_t kStreamRowCost = 4;  // a stream's row counts as that many prompt rows of its client's share
constexpr int64_t kPatience = 16;      // admissions of others before a sequence without room closes the door
constexpr int kMaxRefusals = 8;        // sequences without room that one plan tries

int64_t blocks_for(int64_t n_tokens) {
  return (n_tokens + kBlock - 1) / kBlock;
}

// Blocks of a table that are there: all but the first, given back ones.
int64_t n_held(const std::vector<int32_t>& table) {
  return table.end() - std::partition_point(table.begin(), table.end(), [](int32_t block) { return block < 0; });
}

}  // namespace

struct Scheduler::Step {
  std::vector<PlannedRows> plan;
  int64_t rows_left = 0, prompt_rows_left = 0, draft_rows_left = 0, logit_rows_left = 0;
};

Scheduler::Scheduler(cache::BlockPool& pool, SchedulerLimits limits)
    : pool_(pool), tree_(pool, limits.windows), limits_(std::move(limits)) {
  require(limits_.n_batch >= 1 && limits_.max_sequences >= 1,
          "A scheduler needs at least one row and one sequence a step.");
  limits_.max_logit_rows = std::max(limits_.max_logit_rows, limits_.max_sequences);
}

bool Scheduler::outlasts(const Sequence& a, const Sequence& b) {
  return std::tuple(-int64_t{a.spec.priority}, a.arrival) < std::tuple(-int64_t{b.spec.priority}, b.arrival);
}

// Within a client: rows left, less half of the rows that others read since it came.
bool Scheduler::precedes(const Sequence& a, const Sequence& b) const {
  const auto turn = [&](const Sequence& s) {
    const int64_t n_left = s.n_settled() - std::max(s.n_computed, s.n_expected);
    return std::tuple(-int64_t{s.spec.priority}, clients_.at(s.spec.client).served, s.spec.client,
                      2 * n_left + s.rows_at_arrival, s.arrival);
  };
  return turn(a) < turn(b);
}

Scheduler::Sequence& Scheduler::insert(uint64_t id, Sequence sequence) {
  require(!sequences_.contains(id), "Sequence %llu exists already.", static_cast<unsigned long long>(id));
  Client& client = clients_[sequence.spec.client];
  if (client.n_sequences == 0) {
    // One that was away has no claim on what it missed.
    int64_t least = INT64_MAX;
    for (const auto& [key, other] : clients_) {
      if (other.n_sequences > 0) least = std::min(least, other.served);
    }
    if (least != INT64_MAX) client.served = std::max(client.served, least);
    std::erase_if(clients_, [&](const auto& each) {
      return &each.second != &client && each.second.n_sequences == 0 && each.second.served <= least;
    });
  }
  ++client.n_sequences;
  sequence.id = id;
  sequence.arrival = n_arrivals_++;
  sequence.rows_at_arrival = n_prompt_rows_;
  return sequences_.emplace(id, std::move(sequence)).first->second;
}

void Scheduler::add(uint64_t id, SequenceSpec spec) {
  require(!spec.prompt.empty(), "A prompt needs at least one token.");
  Sequence sequence;
  sequence.tokens = std::exchange(spec.prompt, {});
  sequence.n_prompt = sequence.n_tokens();
  sequence.spec = std::move(spec);
  sequence.spec.every_row |= sequence.spec.every_logit;
  sequence.tables.resize(limits_.windows.size());
  wait(insert(id, std::move(sequence)));
}

bool Scheduler::append(uint64_t id, int32_t token) {
  Sequence& s = sequences_.at(id);
  const auto next = static_cast<size_t>(s.n_settled());
  if (s.n_drafts > 0 && s.tokens[next] == token) {
    --s.n_drafts;
    return true;
  }
  s.tokens.resize(next);
  s.n_drafts = 0;
  s.n_computed = std::min(s.n_computed, s.n_tokens());
  s.tokens.push_back(token);
  return false;
}

void Scheduler::draft(uint64_t id, std::span<const int32_t> tokens) {
  Sequence& s = sequences_.at(id);
  s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
  s.n_drafts += static_cast<int64_t>(tokens.size());
}

void Scheduler::restart(uint64_t id, std::vector<int32_t> tokens) {
  Sequence& s = sequences_.at(id);
  release_blocks(s);
  s.tokens = std::move(tokens);
  s.n_prompt = s.n_tokens();
  s.n_read = 0;
}

std::vector<BlockCopy> Scheduler::fork(uint64_t id, uint64_t new_id) {
  Sequence copy = sequences_.at(id);
  copy.tokens.resize(static_cast<size_t>(copy.n_settled()));
  copy.n_drafts = 0;
  copy.n_computed = std::min(copy.n_computed, copy.n_tokens());
  copy.is_running = false;
  Sequence& child = insert(new_id, std::move(copy));
  if (!sequences_.at(id).is_running || n_running() >= limits_.max_sequences) {
    for (std::vector<int32_t>& table : child.tables) table.clear();
    child.n_computed = 0;
    child.n_known_blocks = 0;
    wait(child);
    return {};
  }
  const auto n_full = static_cast<size_t>(child.n_computed / kBlock);
  const bool has_partial = child.n_computed % kBlock != 0;
  std::vector<BlockCopy> copies;
  for (std::vector<int32_t>& table : child.tables) {
    const int32_t from = has_partial ? table[n_full] : -1;
    table.resize(n_full);
    for (const int32_t block : table) {
      if (block >= 0) pool_.add_ref(block);
    }
    if (const int32_t to = has_partial ? allocate() : -1; to >= 0) {
      table.push_back(to);
      copies.push_back({from, to});
    }
  }
  if (has_partial && copies.size() < child.tables.size()) {
    child.n_computed = static_cast<int64_t>(n_full) * kBlock;
    copies.clear();
  }
  run(child);
  return copies;
}

void Scheduler::finish(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  remember(found->second);
  release_blocks(found->second);
  std::erase(waiting_, id);
  std::erase(running_, id);
  --clients_.at(found->second.spec.client).n_sequences;
  sequences_.erase(found);
  if (sequences_.empty()) clients_.clear();
}

void Scheduler::run(Sequence& sequence) {
  const auto place = std::find_if(running_.begin(), running_.end(),
                                  [&](uint64_t other) { return outlasts(sequence, sequences_.at(other)); });
  running_.insert(place, sequence.id);
  sequence.is_running = true;
  sequence.n_passed_over = 0;
}

void Scheduler::wait(Sequence& sequence) {
  sequence.is_running = false;
  sequence.n_expected = tree_.n_known(reusable(sequence), sequence.spec.variant) * kBlock;
  waiting_.push_back(sequence.id);
}

void Scheduler::preempt(Sequence& sequence) {
  std::erase(running_, sequence.id);
  remember(sequence);
  release_blocks(sequence);
  wait(sequence);
  ++n_preemptions_;
}

// Preempts the last running sequence unless it is `keep`; false when it is.
bool Scheduler::preempt_last(const Sequence& keep, bool only_lower_priority) {
  if (running_.empty() || running_.back() == keep.id) return false;
  Sequence& victim = sequences_.at(running_.back());
  if (only_lower_priority && victim.spec.priority >= keep.spec.priority) return false;
  preempt(victim);
  return true;
}

// Gives all blocks back; drafts go with them.
void Scheduler::release_blocks(Sequence& sequence) {
  for (std::vector<int32_t>& table : sequence.tables) {
    for (const int32_t block : table) {
      if (block >= 0) pool_.release(block);
    }
    table.clear();
  }
  sequence.tokens.resize(static_cast<size_t>(sequence.n_settled()));
  sequence.n_drafts = 0;
  sequence.n_computed = 0;
  sequence.n_expected = 0;
  sequence.n_known_blocks = 0;
}

// Tells the prefix tree about blocks that are full, computed and not of drafts.
void Scheduler::remember(Sequence& sequence) {
  const int64_t n_full = std::min(sequence.n_computed, sequence.n_settled()) / kBlock;
  if (!limits_.prefix_cache || sequence.spec.is_passing || n_full <= sequence.n_known_blocks) return;
  const std::span<const int32_t> tokens(sequence.tokens);
  tree_.insert(tokens.first(static_cast<size_t>(n_full * kBlock)), sequence.tables, sequence.spec.variant);
  sequence.n_known_blocks = n_full;
}

// Lets go of blocks behind a window. Rows may be computed again from the last whole block before the newest token on:
// when drafts were wrong, or in a fork without room for a copy.
void Scheduler::give_back(Sequence& sequence) {
  const int64_t next = std::min(sequence.n_computed, sequence.n_settled()) / kBlock * kBlock;
  for (size_t g = 0; g < limits_.windows.size(); ++g) {
    std::vector<int32_t>& table = sequence.tables[g];
    auto end = std::min(static_cast<size_t>(cache::first_seen_block(next, limits_.windows[g])), table.size());
    for (; end > 0 && table[end - 1] >= 0; --end) pool_.release(std::exchange(table[end - 1], -1));
  }
}

int32_t Scheduler::allocate() {
  const int32_t block = pool_.allocate();
  if (block >= 0 || tree_.evict(std::max<int64_t>(1, pool_.n_blocks() / 64)) == 0) return block;
  return pool_.allocate();
}

// Blocks for the sequence's first n_tokens; false (and nothing kept beyond what it got) when the pool is exhausted.
bool Scheduler::reserve(Sequence& sequence, int64_t n_tokens) {
  for (std::vector<int32_t>& table : sequence.tables) {
    while (static_cast<int64_t>(table.size()) < blocks_for(n_tokens)) {
      const int32_t block = allocate();
      if (block < 0) return false;
      table.push_back(block);
    }
  }
  return true;
}

// The same, at others' cost; false when the sequence itself had to give way.
bool Scheduler::reserve_or_preempt(Sequence& sequence, int64_t n_tokens) {
  while (!reserve(sequence, n_tokens)) {
    if (preempt_last(sequence, false)) continue;
    preempt(sequence);
    return false;
  }
  return true;
}

// The tokens that may come from the prefix tree: not the newest, whose logits are wanted, nor rows of which something
// is wanted that nobody has seen yet.
std::span<const int32_t> Scheduler::reusable(const Sequence& sequence) const {
  int64_t n = limits_.prefix_cache && !sequence.spec.is_passing ? sequence.n_tokens() - 1 : 0;
  if (sequence.spec.every_row) n = std::min(n, sequence.n_read);
  return std::span(sequence.tokens).first(static_cast<size_t>(n));
}

// Another sequence is reading the same text: its blocks will be there in a few steps.
bool Scheduler::is_being_computed(const Sequence& sequence) const {
  const std::span<const int32_t> tokens = reusable(sequence);
  const int64_t n_next = (tree_.n_known(tokens, sequence.spec.variant) + 1) * kBlock;
  return n_next <= static_cast<int64_t>(tokens.size()) &&
         std::any_of(running_.begin(), running_.end(), [&](uint64_t id) {
           const Sequence& other = sequences_.at(id);
           return other.n_computed < n_next && n_next <= other.n_prompt && !other.spec.is_passing &&
                  other.spec.priority >= sequence.spec.priority && other.spec.variant == sequence.spec.variant &&
                  std::equal(sequence.tokens.begin(), sequence.tokens.begin() + n_next, other.tokens.begin());
         });
}

// How many more blocks it will hold at most until all its tokens and one more are computed.
int64_t Scheduler::n_wanted(const Sequence& sequence) const {
  int64_t n = 0;
  for (size_t g = 0; g < limits_.windows.size(); ++g) {
    int64_t most = blocks_for(sequence.n_settled() + 1);
    // A window, the rows of a step, and what they leave of their first and last blocks.
    if (const int64_t window = limits_.windows[g]; window > 0)
      most = std::min(most, blocks_for(window + limits_.n_batch) + 2);
    n += std::max<int64_t>(0, most - n_held(sequence.tables[g]));
  }
  return n;
}

// Blocks are left for it, beside those that running sequences will still ask for.
bool Scheduler::has_room(const Sequence& sequence) const {
  int64_t n = n_wanted(sequence);
  for (const uint64_t id : running_) n += n_wanted(sequences_.at(id));
  return n <= pool_.n_free() || n <= pool_.n_free() + tree_.n_evictable();
}

// Takes a waiting sequence in, with the blocks that the prefix tree has for it.
bool Scheduler::admit(Sequence& sequence) {
  while (n_running() >= limits_.max_sequences) {
    if (!preempt_last(sequence, true)) return false;
  }
  sequence.tables = tree_.match(reusable(sequence), sequence.spec.variant);
  while (!has_room(sequence)) {
    if (preempt_last(sequence, true)) continue;
    release_blocks(sequence);
    return false;
  }
  sequence.n_known_blocks = static_cast<int64_t>(sequence.tables.front().size());
  sequence.n_computed = sequence.n_known_blocks * kBlock;
  sequence.n_cached = std::min(sequence.n_computed, sequence.n_prompt);
  std::erase(waiting_, sequence.id);
  run(sequence);
  return true;
}

// Appends the next n_rows rows of a sequence, one entry for each role.
void Scheduler::add_rows(Sequence& sequence, int64_t n_rows, Step& step) {
  const int64_t begin = sequence.n_computed, end = begin + n_rows, n_tokens = sequence.n_tokens();
  const int64_t split = std::clamp(sequence.n_prompt, begin, end);
  // Logits of the newest token and of each draft.
  const bool has_newest = end == n_tokens && !sequence.spec.no_logits;
  const int64_t first_logit = has_newest ? std::max(begin, sequence.n_settled() - 1) : end;
  if (begin < split) {
    const int64_t n_logits =
        sequence.spec.every_logit ? split - begin : std::max<int64_t>(0, split - std::max(begin, first_logit));
    step.plan.push_back({sequence.id, begin, split - begin, ops::Role::prefill, n_logits, split == n_tokens});
    step.logit_rows_left -= n_logits;
  }
  if (split < end) {
    const int64_t n_logits = std::max<int64_t>(0, end - std::max(split, first_logit));
    step.plan.push_back({sequence.id, split, end - split, ops::Role::decode, n_logits, end == n_tokens});
    step.logit_rows_left -= n_logits;
  }
  step.rows_left -= n_rows;
}

void Scheduler::plan_streams(Step& step) {
  for (size_t i = 0; i < running_.size() && step.rows_left > 0;) {
    Sequence& s = sequences_.at(running_[i]);
    if (!is_streaming(s)) {
      ++i;
      continue;
    }
    // Drafts are dropped rather than push anyone out.
    int64_t n_rows = 1 + std::min(s.n_drafts, step.draft_rows_left);
    if (!reserve(s, s.n_computed + n_rows)) n_rows = 1;
    s.tokens.resize(static_cast<size_t>(s.n_settled() + n_rows - 1));
    s.n_drafts = n_rows - 1;
    if (!reserve_or_preempt(s, s.n_computed + n_rows)) continue;  // it left running_
    add_rows(s, n_rows, step);
    step.draft_rows_left -= n_rows - 1;
    clients_.at(s.spec.client).served += n_rows * kStreamRowCost;
    ++i;
  }
}

void Scheduler::plan_prompts(Step& step) {
  std::vector<const Sequence*> turns;
  for (const uint64_t id : running_) {
    const Sequence& s = sequences_.at(id);
    if (s.n_computed < s.n_tokens() && !is_streaming(s)) turns.push_back(&s);
  }
  for (const uint64_t id : waiting_) turns.push_back(&sequences_.at(id));
  std::sort(turns.begin(), turns.end(), [&](const Sequence* a, const Sequence* b) { return precedes(*a, *b); });
  std::vector<Sequence*> refused;
  bool is_closed = false;
  for (const Sequence* turn : turns) {
    if (step.rows_left <= 0 || step.prompt_rows_left <= 0 || step.logit_rows_left <= 0) return;
    Sequence& s = sequences_.at(turn->id);
    if (!s.is_running) {
      if (is_closed || is_being_computed(s)) continue;
      if (!admit(s)) {
        refused.push_back(&s);
        is_closed = s.n_passed_over >= kPatience || refused.size() >= kMaxRefusals;
        continue;
      }
      for (Sequence* other : refused) ++other->n_passed_over;
    }
    int64_t n_rows = std::min({s.n_tokens() - s.n_computed, step.rows_left, step.prompt_rows_left});
    if (s.spec.every_logit) n_rows = std::min(n_rows, step.logit_rows_left);
    if (n_rows <= 0 || !reserve_or_preempt(s, s.n_computed + n_rows)) continue;
    add_rows(s, n_rows, step);
    step.prompt_rows_left -= n_rows;
    n_prompt_rows_ += n_rows;
    clients_.at(s.spec.client).served += n_rows;
  }
}

std::vector<PlannedRows> Scheduler::plan(int64_t prefill_rows) {
  for (const uint64_t id : running_) {
    remember(sequences_.at(id));
    give_back(sequences_.at(id));
  }
  Step step;
  step.rows_left = limits_.n_batch;
  step.logit_rows_left = limits_.max_logit_rows;
  step.draft_rows_left = std::max<int64_t>(0, std::min(limits_.n_batch, limits_.max_logit_rows) - n_running());
  plan_streams(step);
  step.prompt_rows_left = step.plan.empty() ? limits_.n_batch : std::max<int64_t>(1, prefill_rows);
  plan_prompts(step);
  // Sequences may have been planned and then preempted for the sake of others.
  std::erase_if(step.plan, [&](const PlannedRows& rows) { return !sequences_.at(rows.id).is_running; });
  std::stable_partition(step.plan.begin(), step.plan.end(),
                        [](const PlannedRows& rows) { return rows.role == ops::Role::prefill; });
  return std::move(step.plan);
}

void Scheduler::complete(const std::vector<PlannedRows>& plan) {
  for (const PlannedRows& rows : plan) {
    const auto found = sequences_.find(rows.id);
    if (found == sequences_.end() || found->second.n_computed != rows.first_position) continue;
    Sequence& s = found->second;
    s.n_computed += rows.n_rows;
    s.n_read = std::max(s.n_read, s.n_computed);
  }
}

int64_t Scheduler::n_streaming() const {
  return std::count_if(running_.begin(), running_.end(), [&](uint64_t id) { return is_streaming(id); });
}

void Scheduler::check_integrity() const {
  std::vector<int32_t> refs(static_cast<size_t>(pool_.n_blocks()), 0);
  tree_.count_refs(refs);
  for (const auto& [id, sequence] : sequences_) {
    for (const std::vector<int32_t>& table : sequence.tables) {
      for (const int32_t block : table) {
        if (block >= 0) ++refs[static_cast<size_t>(block)];
      }
    }
  }
  pool_.check_integrity(refs);
}

}  // namespace halfbyte::engine
