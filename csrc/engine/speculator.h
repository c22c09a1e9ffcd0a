// Decides which tokens are guessed ahead, and how many: only as many as pay.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/cost.h"
#include "engine/draft_model.h"
#include "engine/lookup.h"

namespace halfbyte::engine {

// A stream that could take drafts in the coming step.
struct DraftSlot {
  uint64_t id = 0;
  int64_t most = 0;             // drafts that still make sense
  std::vector<int32_t> drafts;  // filled by propose()
};

// Guesses come from the draft model where there is one, else from prompt lookup. What is drawn never depends on them:
// a guess counts when the request's own sampler draws the same token.
class Speculator {
 public:
  Speculator(std::shared_ptr<const model::Weights> draft, const model::Config& target, const EngineOptions& options);

  // A stream begins, or begins anew, with these tokens.
  void restart(uint64_t id, std::span<const int32_t> tokens);
  void append(uint64_t id, int32_t token);
  void finish(uint64_t id);
  // Of n drafts of a stream, the first n_right came true.
  void learn(uint64_t id, int64_t n, int64_t n_right);

  // n_streams: all streams of the step, those without drafts too.
  void propose(std::span<DraftSlot> slots, int64_t n_streams, const StepCost& cost);

 private:
  struct Stream {
    std::optional<PromptLookup> lookup;
    double chance = 0.7;  // of the draft model's next guess
  };
  int64_t guesses_that_pay(std::span<const DraftSlot> slots, int64_t n_streams, const StepCost& cost) const;

  bool uses_lookup_;
  int64_t max_drafts_;
  std::unique_ptr<DraftModel> model_;
  std::unordered_map<uint64_t, Stream> streams_;
  int64_t n_steps_without_ = 0;  // of the draft model, since it last guessed
};

}  // namespace halfbyte::engine
