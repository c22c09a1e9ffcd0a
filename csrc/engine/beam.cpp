// Each step looks at twice as many continuations as there are beams: half of them may be ends.
#include "engine/beam.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/forward.h"
#include "sampling/candidates.h"

namespace halfbyte::engine {

namespace {

struct Continuation {
  size_t beam = 0;
  int32_t token = 0;
  double score = 0;
};

}  // namespace

bool BeamSearch::report(uint64_t sequence, std::span<const float> logits) {
  const auto beam = std::find_if(beams_.begin(), beams_.end(), [&](const Beam& b) { return b.sequence == sequence; });
  std::vector<float> copy(logits.begin(), logits.end());
  const float normalizer = logits[0] - log_softmax_at(logits, 0);
  if (static_cast<int64_t>(beam->tokens.size()) < request_.min_tokens) {
    for (const int32_t token : request_.stop_tokens) {
      if (token >= 0 && static_cast<size_t>(token) < copy.size()) copy[static_cast<size_t>(token)] = -INFINITY;
    }
  }
  std::vector<sampling::Candidate> storage;
  sampling::Candidates candidates(copy, storage);
  candidates.select_top(static_cast<size_t>(2 * request_.beam_width));
  beam->next.clear();
  for (const sampling::Candidate& c : candidates.list()) beam->next.push_back({c.token, c.logit - normalizer});
  return std::none_of(beams_.begin(), beams_.end(), [](const Beam& b) { return b.next.empty(); });
}

double BeamSearch::normalized(double score, size_t length) const {
  return score / std::pow(static_cast<double>(std::max<size_t>(1, length)), request_.length_penalty);
}

void BeamSearch::end(const Beam& beam, FinishReason reason) {
  Hypothesis hypothesis{
      .tokens = beam.tokens, .bytes = {}, .score = normalized(beam.score, beam.tokens.size()), .finish = reason};
  const auto place = std::find_if(ended_.begin(), ended_.end(),
                                  [&](const Hypothesis& other) { return hypothesis.score > other.score; });
  ended_.insert(place, std::move(hypothesis));
  if (static_cast<int64_t>(ended_.size()) > request_.beam_width) ended_.pop_back();
}

// No beam that goes on could get among the best any more, as far as today's score tells.
bool BeamSearch::cannot_improve(double best_score) const {
  if (static_cast<int64_t>(ended_.size()) < request_.beam_width) return false;
  return request_.early_stopping || ended_.back().score >= normalized(best_score, beams_.front().tokens.size() + 1);
}

std::vector<BeamSearch::Move> BeamSearch::step() {
  const auto width = static_cast<size_t>(request_.beam_width);
  std::vector<Continuation> all;
  for (size_t i = 0; i < beams_.size(); ++i) {
    for (const sampling::TokenLogprob& next : beams_[i].next)
      all.push_back({i, next.token, beams_[i].score + next.logprob});
  }
  // Stable, so that equals keep the order of beams and of token ids.
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  if (all.size() > 2 * width) all.resize(2 * width);

  std::vector<Beam> chosen;
  std::vector<Move> moves;
  for (const Beam& beam : beams_) moves.push_back({beam.sequence, {}});
  std::vector<std::vector<Beam>> by_beam(beams_.size());
  size_t n_chosen = 0;
  for (size_t rank = 0; rank < all.size() && n_chosen < width; ++rank) {
    const Continuation& c = all[rank];
    Beam beam{0, beams_[c.beam].tokens, c.score, {}};
    beam.tokens.push_back(c.token);
    const std::vector<int32_t>& stops = request_.stop_tokens;
    if (std::find(stops.begin(), stops.end(), c.token) != stops.end()) {
      if (rank < width) end(beam, FinishReason::stop);
      continue;
    }
    moves[c.beam].tokens.push_back(c.token);
    by_beam[c.beam].push_back(std::move(beam));
    ++n_chosen;
  }
  is_done_ = all.empty() || cannot_improve(all.front().score);
  for (std::vector<Beam>& beams : by_beam) {
    for (Beam& beam : beams) chosen.push_back(std::move(beam));
  }
  beams_ = std::move(chosen);
  const bool is_long = !beams_.empty() && static_cast<int64_t>(beams_.front().tokens.size()) >= max_tokens_;
  if (!is_done_ && (is_long || beams_.empty())) {
    for (const Beam& beam : beams_) end(beam, FinishReason::length);
    is_done_ = true;
  }
  return moves;
}

void BeamSearch::adopt(std::span<const uint64_t> sequences) {
  for (size_t i = 0; i < beams_.size(); ++i) beams_[i].sequence = sequences[i];
}

std::vector<Hypothesis> BeamSearch::results(std::span<const std::string> token_bytes) const {
  const size_t n = std::min(ended_.size(), static_cast<size_t>(request_.n_hypotheses));
  std::vector<Hypothesis> out(ended_.begin(), ended_.begin() + static_cast<std::ptrdiff_t>(n));
  for (Hypothesis& hypothesis : out) {
    const size_t n_shown = hypothesis.tokens.size() - (hypothesis.finish == FinishReason::stop ? 1 : 0);
    for (const int32_t token : std::span(hypothesis.tokens).first(n_shown)) {
      if (static_cast<size_t>(token) < token_bytes.size()) hypothesis.bytes += token_bytes[static_cast<size_t>(token)];
    }
  }
  return out;
}

}  // namespace halfbyte::engine
