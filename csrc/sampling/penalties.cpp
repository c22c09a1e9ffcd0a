// Repetition (Keskar et al. 2019), frequency and presence penalties over a window of past tokens.
#include <algorithm>
#include <unordered_map>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History& history, Rng&) {
  const int64_t window =
      params.repeat_last_n < 0 ? history.size() : std::min<int64_t>(history.size(), params.repeat_last_n);
  std::unordered_map<int32_t, int> counts;
  for (int64_t i = 0; i < window; ++i) ++counts[history.back(i)];
  const auto penalized = [&](float logit, int count) {
    logit = logit <= 0 ? logit * params.repeat_penalty : logit / params.repeat_penalty;
    return logit - static_cast<float>(count) * params.frequency_penalty - params.presence_penalty;
  };
  if (candidates.is_view()) {
    const std::span<float> logits = candidates.logits();
    for (const auto& [token, count] : counts) {
      if (token >= 0 && static_cast<size_t>(token) < logits.size())
        logits[static_cast<size_t>(token)] = penalized(logits[static_cast<size_t>(token)], count);
    }
    return;
  }
  // A later place in the order: what earlier stages removed stays removed.
  std::vector<Candidate> kept = candidates.list();
  for (Candidate& c : kept) {
    const auto found = counts.find(c.token);
    if (found != counts.end()) c.logit = penalized(c.logit, found->second);
  }
  candidates.replace(std::move(kept));
}

}  // namespace

const Stage penalties_stage = {
    "penalties",
    [](const Params& p) {
      return p.repeat_last_n != 0 &&
             (p.repeat_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f);
    },
    apply};

}  // namespace halfbyte::sampling
