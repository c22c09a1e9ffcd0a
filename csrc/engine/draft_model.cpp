// The scheduler serves here too: guesses are drafts that settle, or go, when the large model has spoken.
#include "engine/draft_model.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "engine/batch.h"
#include "sampling/chain.h"

namespace halfbyte::engine {

namespace {

constexpr int64_t kPromptRows = 64;  // of a pass, while other streams wait for it

EngineOptions draft_options(EngineOptions options, const model::Weights& weights) {
  options.token_bytes.clear();
  return resolve_options(std::move(options), weights);
}

}  // namespace

DraftModel::DraftModel(std::shared_ptr<const model::Weights> weights, const model::Config& target,
                       const EngineOptions& o)
    : decoder_(weights, o.n_threads, o.n_batch, o.max_sequences, draft_options(o, *weights).n_ctx),
      kv_(decoder_.make_kv(o.k_type, o.v_type, n_kv_blocks(o, decoder_.kv_groups()))),
      pool_(kv_.n_blocks()),
      scheduler_(pool_, {.n_batch = o.n_batch,
                         .max_sequences = o.max_sequences,
                         .max_logit_rows = o.max_sequences,
                         .prefix_cache = o.prefix_cache,
                         .windows = decoder_.kv_groups().windows}) {
  require(weights->config.n_vocab == target.n_vocab,
          "The draft model has %lld tokens in its vocabulary, the model %lld: they must share one tokenizer.",
          static_cast<long long>(weights->config.n_vocab), static_cast<long long>(target.n_vocab));
}

void DraftModel::add(uint64_t id, std::vector<int32_t> tokens) {
  scheduler_.add(id, {.prompt = std::move(tokens)});
}

void DraftModel::append(uint64_t id, int32_t token) {
  scheduler_.append(id, token);
}

void DraftModel::finish(uint64_t id) {
  scheduler_.finish(id);
}

std::vector<std::vector<int32_t>> DraftModel::guess(std::span<const uint64_t> ids, int64_t n) {
  std::vector<std::vector<int32_t>> guesses(ids.size());
  for (int64_t i = 0; i < n && pass(ids, guesses, n); ++i) {
  }
  return guesses;
}

int32_t DraftModel::likeliest(std::span<const ops::Likely> likely, int64_t logit_row) {
  const int32_t best = likely.empty() ? sampling::likeliest(decoder_.logits(logit_row, 1)).token : likely.front().token;
  return std::max(0, best);
}

// One pass of the model: one more guess for each stream whose tokens are all computed. False when nothing can run.
bool DraftModel::pass(std::span<const uint64_t> ids, std::vector<std::vector<int32_t>>& guesses, int64_t n) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<PlannedRows> plan = scheduler_.plan(kPromptRows);
  if (plan.empty()) return false;
  model::Batch batch = make_batch(scheduler_, plan);
  batch.n_likely = 1;
  const model::StepOutput output = decoder_.forward(batch, kv_);
  scheduler_.complete(plan);
  int64_t next_logit = 0;
  for (const PlannedRows& rows : plan) {
    const int64_t row = std::exchange(next_logit, next_logit + rows.n_logits);
    const auto found = std::find(ids.begin(), ids.end(), rows.id);
    if (!rows.is_newest || found == ids.end()) continue;
    std::vector<int32_t>& guess = guesses[static_cast<size_t>(found - ids.begin())];
    if (static_cast<int64_t>(guess.size()) >= n) continue;
    guess.push_back(likeliest(output.likely_of(row, 1), row));
    scheduler_.draft(rows.id, std::span(guess).last(1));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  pass_seconds_ = pass_seconds_ == 0 ? seconds : pass_seconds_ + 0.1 * (seconds - pass_seconds_);
  return true;
}

}  // namespace halfbyte::engine
