// Min-p (Nguyen et al. 2024): tokens at least min_p times as likely as the best.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  const float threshold = candidates.highest_logit() + std::log(params.min_p);
  std::vector<Candidate>& list = candidates.list();
  const auto n_likely = static_cast<size_t>(
      std::count_if(list.begin(), list.end(), [&](const Candidate& c) { return c.logit >= threshold; }));
  if (n_likely < static_cast<size_t>(params.min_keep))
    return candidates.select_top(static_cast<size_t>(params.min_keep));
  // Order is kept, so a sorted front stays sorted.
  std::erase_if(list, [&](const Candidate& c) { return c.logit < threshold; });
}

}  // namespace

const Stage min_p_stage = {"min_p", [](const Params& p) { return p.min_p > 0.0f; }, apply};

}  // namespace halfbyte::sampling
