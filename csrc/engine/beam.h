// Beam search over sequences that share blocks: which beams go on, which have ended, when it is over.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/request.h"

namespace halfbyte::engine {

// Pure: logits come in, decisions go out. Scores are sums of log probabilities; hypotheses are compared by
// score / length^length_penalty, as transformers does it.
class BeamSearch {
 public:
  // Hypotheses have up to max_tokens; `request` must outlive the search.
  BeamSearch(const Request& request, int64_t max_tokens) : request_(request), max_tokens_(max_tokens) {}

  struct Beam {
    uint64_t sequence = 0;
    std::vector<int32_t> tokens;
    double score = 0;
    std::vector<sampling::TokenLogprob> next;  // most likely tokens, best first; empty until its logits came
  };
  // What becomes of a beam's sequence: it goes on with the first token, and copies of it with the others; none: it
  // ends.
  struct Move {
    uint64_t sequence = 0;
    std::vector<int32_t> tokens;
  };

  void start(uint64_t sequence) { beams_ = {Beam{sequence, {}, 0, {}}}; }
  std::span<const Beam> beams() const { return beams_; }

  // Logits (n_vocab) after a beam's newest token. True when all beams have theirs: then step() is due.
  bool report(uint64_t sequence, std::span<const float> logits);

  // Chooses the next tokens. The sequences of the new beams are named by adopt(), in the order of the moves.
  std::vector<Move> step();
  void adopt(std::span<const uint64_t> sequences);

  bool is_done() const { return is_done_; }
  // The best request.n_hypotheses, best first, with their bytes (of each token id, or empty); once done.
  std::vector<Hypothesis> results(std::span<const std::string> token_bytes) const;

 private:
  double normalized(double score, size_t length) const;
  void end(const Beam& beam, FinishReason reason);
  bool cannot_improve(double best_score) const;

  const Request& request_;
  int64_t max_tokens_;
  std::vector<Beam> beams_;
  std::vector<Hypothesis> ended_;  // best first, at most beam_width
  bool is_done_ = false;
};

}  // namespace halfbyte::engine
