// A draft pays while its chance to be right is above what its row costs in tokens.
#include "engine/speculator.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace halfbyte::engine {

namespace {

constexpr double kLeastChance = 0.15;  // a draft less likely than that is never worth its trouble
constexpr double kLearn = 0.1;
constexpr int64_t kRetry = 64;  // steps after which a draft model that did not pay is tried again

}  // namespace

Speculator::Speculator(std::shared_ptr<const model::Weights> draft, const model::Config& target,
                       const EngineOptions& options)
    : uses_lookup_(options.prompt_lookup && draft == nullptr), max_drafts_(options.max_drafts) {
  if (draft != nullptr) model_ = std::make_unique<DraftModel>(std::move(draft), target, options);
}

void Speculator::restart(uint64_t id, std::span<const int32_t> tokens) {
  if (!uses_lookup_ && !model_) return;
  finish(id);
  Stream& stream = streams_[id];
  if (uses_lookup_) stream.lookup.emplace(tokens);
  if (model_) model_->add(id, {tokens.begin(), tokens.end()});
}

void Speculator::append(uint64_t id, int32_t token) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  if (found->second.lookup) found->second.lookup->append(token);
  if (model_) model_->append(id, token);
}

void Speculator::finish(uint64_t id) {
  if (streams_.erase(id) > 0 && model_) model_->finish(id);
}

void Speculator::learn(uint64_t id, int64_t n, int64_t n_right) {
  const auto found = streams_.find(id);
  if (found == streams_.end() || n == 0) return;
  double& chance = found->second.chance;
  for (int64_t i = 0; i < std::min(n, n_right + 1); ++i) chance += kLearn * ((i < n_right ? 1.0 : 0.0) - chance);
}

// The number of guesses for each stream that gives the most tokens a second.
int64_t Speculator::guesses_that_pay(std::span<const DraftSlot> slots, int64_t n_streams, const StepCost& cost) const {
  int64_t best = 0;
  double best_rate = 0;
  for (int64_t k = 0; k <= max_drafts_; ++k) {
    auto n_tokens = static_cast<double>(n_streams - static_cast<int64_t>(slots.size()));
    int64_t n_rows = n_streams;
    for (const DraftSlot& slot : slots) {
      const double chance = std::min(0.98, streams_.at(slot.id).chance);
      const int64_t n = std::min(k, slot.most);
      n_tokens += (1 - std::pow(chance, static_cast<double>(n + 1))) / (1 - chance);
      n_rows += n;
    }
    const double seconds = cost.stream_seconds(n_rows) + static_cast<double>(k) * model_->pass_seconds();
    if (seconds <= 0) return std::min<int64_t>(2, max_drafts_);
    if (n_tokens / seconds > best_rate) best_rate = n_tokens / seconds, best = k;
  }
  return best;
}

void Speculator::propose(std::span<DraftSlot> slots, int64_t n_streams, const StepCost& cost) {
  if (slots.empty()) return;
  if (model_) {
    int64_t n = guesses_that_pay(slots, n_streams, cost);
    if (n == 0 && ++n_steps_without_ < kRetry) return;
    n_steps_without_ = 0;
    n = std::max<int64_t>(n, 1);
    std::vector<uint64_t> ids;
    for (const DraftSlot& slot : slots) ids.push_back(slot.id);
    std::vector<std::vector<int32_t>> guesses = model_->guess(ids, n);
    for (size_t i = 0; i < slots.size(); ++i) {
      slots[i].drafts = std::move(guesses[i]);
      if (static_cast<int64_t>(slots[i].drafts.size()) > slots[i].most)
        slots[i].drafts.resize(static_cast<size_t>(slots[i].most));
    }
    return;
  }
  // Tokens that the time of one more row would bring elsewhere.
  const double seconds = cost.stream_seconds(n_streams);
  const double worth =
      seconds > 0 ? cost.stream_row_seconds() * static_cast<double>(n_streams) / seconds : kLeastChance;
  for (DraftSlot& slot : slots) {
    const auto found = streams_.find(slot.id);
    if (found == streams_.end() || !found->second.lookup) continue;
    slot.drafts = found->second.lookup->guess(std::min(slot.most, max_drafts_), std::max(worth, kLeastChance));
  }
}

}  // namespace halfbyte::engine
