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
  // Whether the likeliest token is drawn where it may come, so that its rule need only be asked about that one.
  bool is_checked() const;
  // In the place of prepare_masks(), when logits are there: asks whether `choices` may come, the likeliest token of the
  // next place and of each after a draft that it equals; where one may not, has the masks from there on computed.
  void check_choices(MaskWorker& worker, std::span<const sampling::Candidate> choices, std::span<const int32_t> drafts);
  const ComingMasks& coming_masks() const { return coming_masks_; }
  // What was prepared past the token drawn last is of no use.
  void drop_masks();

  // Draws the next token where it is known to be the likeliest (check_choices); false where its logits are needed.
  bool advance_as_checked(Event& event, int32_t& token);
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
  std::deque<MaskWords> masks_;              // of the next token, and of those after it if they are what was guessed
  std::deque<sampling::Candidate> choices_;  // beside each, the likeliest token if it was checked

  bool bans_stops() const;
  void collect_masks();
  MaskWords next_mask();
  int32_t take(sampling::Sample sample, Event& event);
};

}  // namespace halfbyte::engine
