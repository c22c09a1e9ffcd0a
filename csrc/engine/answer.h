// One answer in the making: draws tokens from logits, watches for its end.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "engine/request.h"
#include "engine/stop.h"
#include "sampling/chain.h"

namespace halfbyte::engine {

// Not thread-safe. `token_bytes` (bytes of each token id, or empty) must outlive it.
class Answer {
 public:
  // Throws invalid_argument when the request's parameters mean nothing. request.sampling.seed must be set.
  Answer(Request request, int32_t n_vocab, const std::vector<std::string>& token_bytes);

  const Request& request() const { return request_; }
  std::span<const int32_t> generated() const { return generated_; }
  int64_t n_left() const;  // tokens until max_tokens, INT64_MAX when there is no limit

  // Has the masks of the next token, and of drafts after it, computed by the worker, if a rule asks for masks.
  void prepare_masks(MaskWorker& worker, std::span<const int32_t> drafts);
  const ComingMasks& coming_masks() const { return coming_masks_; }
  // What was prepared past the token drawn last is of no use.
  void drop_masks();

  // Draws the next token from its logits (n_vocab, changed in place) and adds it and its text to `event`;
  // event.finish is set when the answer ends with it. Throws what processors and the sampler throw.
  int32_t advance(std::span<float> logits, Event& event);
  // How many of the most likely tokens decide the next draw; 0: only all logits do.
  int64_t n_deciding() const;
  // The same told only so many of them, or more, best first.
  int32_t advance_among(std::span<const sampling::Candidate> best, Event& event);

  // Ends the answer: text that was held back for a stop string comes out.
  void end(FinishReason reason, Event& event);

 private:
  Request request_;
  const std::vector<std::string>& token_bytes_;
  sampling::Chain chain_;
  StopMatcher stop_;
  std::vector<int32_t> generated_;
  ComingMasks coming_masks_;
  std::deque<MaskWords> masks_;  // of the next token, and of those after it if they are what was guessed

  MaskWords next_mask();
  int32_t take(sampling::Sample sample, Event& event);
};

}  // namespace halfbyte::engine
