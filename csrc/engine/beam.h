// Beam search over sequences that share blocks: which beams go on, which have ended, when it is over.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/masks.h"
#include "engine/request.h"
#include "engine/stop.h"

namespace halfbyte::engine {

// Logits come in, decisions go out. Scores are sums of log probabilities under the model alone, which masks leave as
// they are; hypotheses are compared by score / length^length_penalty, as transformers does it. A stop string ends a
// beam as a stop token does.
class BeamSearch {
 public:
  // Hypotheses have up to max_tokens; `request` and `token_bytes` (of each token id, or empty) must outlive the search.
  BeamSearch(const Request& request, int64_t max_tokens, std::span<const std::string> token_bytes)
      : request_(request), max_tokens_(max_tokens), token_bytes_(token_bytes) {}

  struct Beam {
    Beam(uint64_t its_sequence, StopMatcher its_stop) : sequence(its_sequence), stop(std::move(its_stop)) {}

    uint64_t sequence;
    StopMatcher stop;
    std::vector<sampling::Sample> samples;
    double score = 0;
    std::string bytes;                         // of the samples, as far as no stop string may begin there
    int32_t stop_token = -1;                   // that it ended with
    ComingMasks mask;                          // of its next token, if a rule asks for masks
    std::vector<sampling::TokenLogprob> tops;  // the most likely next tokens, if asked for
    std::optional<std::vector<sampling::TokenLogprob>> next;  // those that may come, best first, once its logits came
  };
  // What becomes of a beam's sequence: it goes on with the first token, and copies of it with the others; none: it
  // ends.
  struct Move {
    uint64_t sequence = 0;
    std::vector<int32_t> tokens;
  };

  void start(uint64_t sequence);
  std::span<const Beam> beams() const { return beams_; }

  // Has the masks of the next tokens computed by the worker, if a rule asks for masks.
  void prepare_masks(MaskWorker& worker);
  // The mask of a beam's next token.
  const ComingMasks& coming_mask(uint64_t sequence);

  // Logits (n_vocab, changed in place) after a beam's newest token. True when all beams have theirs: then step() is
  // due. Throws what the mask's computation threw.
  bool report(uint64_t sequence, std::span<float> logits);

  // Chooses the next tokens. The sequences of the new beams are named by adopt(), in the order of the moves.
  std::vector<Move> step();
  void adopt(std::span<const uint64_t> sequences);

  bool is_done() const { return is_done_; }
  // The best request.n_hypotheses, best first; once done. None when no token could follow in any beam.
  std::vector<Hypothesis> results() const;

 private:
  Beam& beam_of(uint64_t sequence);
  Beam grown(const Beam& parent, size_t i_next) const;
  double normalized(double score, size_t length) const;
  void end(Beam beam, FinishReason reason);
  bool cannot_improve(double best_score) const;

  const Request& request_;
  int64_t max_tokens_;
  std::span<const std::string> token_bytes_;
  std::vector<Beam> beams_;
  std::vector<Hypothesis> ended_;  // best first, at most beam_width
  bool is_done_ = false;
};

}  // namespace halfbyte::engine
