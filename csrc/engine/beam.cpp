// Each step looks at twice as many continuations as there are beams: half of them may be ends.
#include "engine/beam.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sampling/candidates.h"
#include "sampling/chain.h"

namespace halfbyte::engine {

namespace {

struct Continuation {
  size_t beam = 0;
  size_t next = 0;  // which of the beam's next tokens
  double score = 0;
};

}  // namespace

void BeamSearch::start(uint64_t sequence) {
  beams_.clear();
  beams_.emplace_back(sequence, StopMatcher(request_.stop_strings, request_.include_stop));
}

BeamSearch::Beam& BeamSearch::beam_of(uint64_t sequence) {
  return *std::find_if(beams_.begin(), beams_.end(), [&](const Beam& b) { return b.sequence == sequence; });
}

void BeamSearch::prepare_masks(MaskWorker& worker) {
  if (!request_.mask) return;
  for (Beam& beam : beams_) {
    if (beam.mask.valid() || beam.next) continue;
    std::vector<int32_t> tokens;
    for (const sampling::Sample& sample : beam.samples) tokens.push_back(sample.token);
    beam.mask = worker.prepare(request_.mask, std::move(tokens), {});
  }
}

const ComingMasks& BeamSearch::coming_mask(uint64_t sequence) {
  return beam_of(sequence).mask;
}

bool BeamSearch::report(uint64_t sequence, std::span<float> logits) {
  Beam& beam = beam_of(sequence);
  for (float& logit : logits) logit = logit < INFINITY ? logit : -INFINITY;  // not a number: cannot be chosen
  const float normalizer = sampling::log_sum_exp(logits);
  if (request_.sampling.n_logprobs > 0)
    beam.tops = sampling::most_likely(logits, static_cast<size_t>(request_.sampling.n_logprobs));
  if (beam.mask.valid()) {
    const MaskWords mask = std::move(beam.mask.get().front());
    check_mask(mask, logits.size());
    if (!mask.empty()) sampling::apply_mask(mask.data(), logits);
  }
  for (const auto& [token, bias] : request_.sampling.logit_bias) {
    if (bias == -INFINITY) logits[static_cast<size_t>(token)] = -INFINITY;
  }
  if (static_cast<int64_t>(beam.samples.size()) < request_.min_tokens) {
    for (const int32_t token : request_.stop_tokens) {
      if (token >= 0 && static_cast<size_t>(token) < logits.size()) logits[static_cast<size_t>(token)] = -INFINITY;
    }
  }
  std::vector<sampling::Candidate> storage;
  sampling::Candidates candidates(logits, storage);
  candidates.select_top(static_cast<size_t>(2 * request_.beam_width));
  beam.next.emplace();
  for (const sampling::Candidate& c : candidates.list()) beam.next->push_back({c.token, c.logit - normalizer});
  return std::all_of(beams_.begin(), beams_.end(), [](const Beam& b) { return b.next.has_value(); });
}

// The beam with one of its next tokens.
BeamSearch::Beam BeamSearch::grown(const Beam& parent, size_t i_next) const {
  const sampling::TokenLogprob& next = (*parent.next)[i_next];
  Beam beam(0, parent.stop);
  beam.score = parent.score + next.logprob;
  beam.bytes = parent.bytes;
  beam.samples = parent.samples;
  beam.samples.push_back({next.token, next.logprob, parent.tops});
  const std::vector<int32_t>& stops = request_.stop_tokens;
  if (std::find(stops.begin(), stops.end(), next.token) != stops.end())
    beam.stop_token = next.token;
  else if (static_cast<size_t>(next.token) < token_bytes_.size())
    beam.bytes += beam.stop.feed(token_bytes_[static_cast<size_t>(next.token)]);
  return beam;
}

double BeamSearch::normalized(double score, size_t length) const {
  return score / std::pow(static_cast<double>(std::max<size_t>(1, length)), request_.length_penalty);
}

void BeamSearch::end(Beam beam, FinishReason reason) {
  Hypothesis hypothesis;
  hypothesis.score = normalized(beam.score, beam.samples.size());
  hypothesis.finish = reason;
  hypothesis.bytes = std::move(beam.bytes) + beam.stop.flush();
  hypothesis.samples = std::move(beam.samples);
  hypothesis.stop_token = beam.stop_token;
  if (beam.stop.has_matched()) hypothesis.stop_string = beam.stop.match();
  const auto place = std::find_if(ended_.begin(), ended_.end(),
                                  [&](const Hypothesis& other) { return hypothesis.score > other.score; });
  ended_.insert(place, std::move(hypothesis));
  if (static_cast<int64_t>(ended_.size()) > request_.beam_width) ended_.pop_back();
}

// No beam that goes on could get among the best any more, as far as today's score tells.
bool BeamSearch::cannot_improve(double best_score) const {
  if (static_cast<int64_t>(ended_.size()) < request_.beam_width) return false;
  return request_.early_stopping || ended_.back().score >= normalized(best_score, beams_.front().samples.size() + 1);
}

std::vector<BeamSearch::Move> BeamSearch::step() {
  const auto width = static_cast<size_t>(request_.beam_width);
  std::vector<Continuation> all;
  for (size_t b = 0; b < beams_.size(); ++b) {
    for (size_t i = 0; i < beams_[b].next->size(); ++i)
      all.push_back({b, i, beams_[b].score + (*beams_[b].next)[i].logprob});
  }
  // Stable, so that equals keep the order of beams and of token ids.
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  if (all.size() > 2 * width) all.resize(2 * width);

  std::vector<Move> moves;
  for (const Beam& beam : beams_) moves.push_back({beam.sequence, {}});
  std::vector<std::vector<Beam>> by_parent(beams_.size());
  size_t n_chosen = 0;
  for (size_t rank = 0; rank < all.size() && n_chosen < width; ++rank) {
    const size_t parent = all[rank].beam;
    Beam beam = grown(beams_[parent], all[rank].next);
    if (beam.stop_token >= 0 || beam.stop.has_matched()) {
      if (rank < width) end(std::move(beam), FinishReason::stop);
      continue;
    }
    moves[parent].tokens.push_back(beam.samples.back().token);
    by_parent[parent].push_back(std::move(beam));
    ++n_chosen;
  }
  is_done_ = all.empty() || cannot_improve(all.front().score);
  beams_.clear();
  for (std::vector<Beam>& beams : by_parent) {
    for (Beam& beam : beams) beams_.push_back(std::move(beam));
  }
  const bool is_long = !beams_.empty() && static_cast<int64_t>(beams_.front().samples.size()) >= max_tokens_;
  if (!is_done_ && (is_long || beams_.empty())) {
    for (Beam& beam : beams_) end(std::move(beam), FinishReason::length);
    is_done_ = true;
  }
  return moves;
}

void BeamSearch::adopt(std::span<const uint64_t> sequences) {
  for (size_t i = 0; i < beams_.size(); ++i) beams_[i].sequence = sequences[i];
}

std::vector<Hypothesis> BeamSearch::results() const {
  const size_t n = std::min(ended_.size(), static_cast<size_t>(request_.n_hypotheses));
  return {ended_.begin(), ended_.begin() + static_cast<std::ptrdiff_t>(n)};
}

}  // namespace halfbyte::engine
