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
  candidates.adjust(counts, [&](float logit, int count) {
    logit = logit <= 0 ? logit * params.repeat_penalty : logit / params.repeat_penalty;
    return logit - static_cast<float>(count) * params.frequency_penalty - params.presence_penalty;
  });
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
