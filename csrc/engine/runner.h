// The part of the engine that lives on its one thread: plan, run the model, sample, report.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/function_ref.h"
#include "cache/kv_store.h"
#include "engine/answer.h"
#include "engine/beam.h"
#include "engine/cost.h"
#include "engine/forward.h"
#include "engine/mailbox.h"
#include "engine/options.h"
#include "engine/scheduler.h"
#include "engine/speculator.h"
#include "model/decoder.h"

namespace halfbyte::engine {

struct EngineStats {
  int64_t n_running = 0, n_waiting = 0;
  int64_t n_blocks = 0, n_blocks_free = 0, n_blocks_cached = 0;
  uint64_t n_steps = 0, n_prompt_tokens = 0, n_generated_tokens = 0, n_preemptions = 0;
  uint64_t n_drafted_tokens = 0, n_accepted_tokens = 0;  // guessed ahead, and of those right
  double prefill_seconds = 0, decode_seconds = 0;
};

// A request inside the engine.
struct Active {
  uint64_t id = 0;
  std::shared_ptr<Mailbox> mailbox;
  Answer answer;
  std::vector<float> prompt_logprobs;
  std::vector<std::vector<sampling::TokenLogprob>> prompt_tops;
  int64_t n_prompt_reported = 0;
  int64_t n_prompt_cached = 0;
  int64_t dropped = 0;
  std::optional<BeamSearch> beams;
  std::unique_ptr<ForwardPass> pass;  // instead of an answer; nobody reads its events
};

// What a step gives for a sequence's newest token and for its drafts.
struct NewestRows {
  int64_t n_rows = 0;
  std::span<const ops::Likely> likely;  // of each row as many, or none
  // Brings logits of n rows from the first on, (n, n_vocab), to be changed in place; valid until the next call.
  FunctionRef<std::span<float>(int64_t first, int64_t n)> logits;

  std::span<const ops::Likely> likely_of(int64_t row) const {
    const size_t n = likely.size() / static_cast<size_t>(n_rows);
    return likely.subspan(static_cast<size_t>(row) * n, n);
  }
};

// Not thread-safe. Events are collected until deliver().
class Runner {
 public:
  // draft: a model that guesses ahead, or nullptr.
  Runner(std::shared_ptr<const model::Weights> weights, std::shared_ptr<const model::Weights> draft,
         const EngineOptions& options);

  void add(std::unique_ptr<Active> active);
  // Ends a request with `cancelled`; unknown ids are ignored.
  void cancel(uint64_t id);
  void cancel_all();
  // Ends every request with an error.
  void fail_all(const std::exception& error);
  bool is_idle() const { return active_.empty(); }

  // One step. `planned` hears which requests are in it before the model runs; the model asks `stop` between layers,
  // and when it ends early the step has changed nothing.
  void step(FunctionRef<void(std::vector<uint64_t>)> planned, const bool* stop);
  // Hands the events that have come about to their mailboxes.
  void deliver();

  EngineStats stats() const;
  void check_integrity() const { scheduler_.check_integrity(); }

 private:
  void post(const Active& a, Event event);
  Active& owner(uint64_t sequence);
  void finish(Active& a, Event event);
  void fail(Active& a, const std::exception& error, Event event = {});
  std::vector<PlannedRows> plan();
  void propose(int64_t n_streams);
  void observe(const std::vector<PlannedRows>& plan, double seconds);
  model::Batch batch_of(const std::vector<PlannedRows>& plan);
  void check_choices(const PlannedRows& rows, int64_t first_logit, const model::StepOutput& output,
                     std::shared_ptr<void>& attention);
  void take_rows(const PlannedRows& rows, int64_t first_logit, const model::StepOutput& output);
  void take_newest(Active& a, uint64_t sequence, const NewestRows& rows);
  void take_late();
  void take_pass(Active& a, const PlannedRows& rows, std::span<const float> values);
  void draw(Active& a, const NewestRows& rows);
  int32_t next_token(Active& a, const NewestRows& rows, int64_t row, Event& event);
  void slide(Active& a);
  void search(Active& a, uint64_t sequence, std::span<float> logits);
  bool has_mask(uint64_t sequence);
  void forget_beam(uint64_t sequence);
  void report_progress(Active& a, uint64_t sequence, Event& event);
  void score_prompt(Active& a, const PlannedRows& rows, std::span<float> logits);

  const EngineOptions& options_;
  std::shared_ptr<const model::Weights> weights_;
  model::Decoder decoder_;
  cache::KvStore kv_;
  cache::BlockPool pool_;
  Scheduler scheduler_;
  Speculator speculator_;
  StepCost cost_;
  EngineStats stats_;
  MaskWorker masks_;
  MaskWorker::Clock::time_point masks_due_;  // of the running step; who has none by then is late
  std::unordered_map<uint64_t, std::unique_ptr<Active>> active_;
  std::map<uint64_t, std::vector<float>> late_;         // sequence -> logits whose masks are not there yet
  std::unordered_map<uint64_t, uint64_t> beam_owners_;  // sequence of a beam -> request
  uint64_t next_beam_ = uint64_t{1} << 63;              // sequence ids that no request has
  std::vector<std::pair<std::shared_ptr<Mailbox>, Event>> outbox_;
};

}  // namespace halfbyte::engine
