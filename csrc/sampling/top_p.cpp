// Top-p (nucleus, Holtzman et al. 2019): the fewest tokens whose probabilities reach p.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Of a whole vocabulary: leaves a list in which the nucleus lies, with probabilities under all tokens.
void keep_likely(Candidates& candidates, const Params& params) {
  const std::span<const float> logits = candidates.logits();
  const float highest = candidates.highest_logit();
  const double mass = mass_of(logits, highest);
  // Tokens rarer than (1 - p) / n hold less than 1 - p together: the others reach p without them. (A little lower, for
  // the sums' rounding.) Mostly far fewer tokens do.
  const double rarest = 0.99 * (1.0 - params.top_p) / static_cast<double>(logits.size());
  for (double share = 1e-3;; share /= 8) {
    const auto bound = highest + static_cast<float>(std::log(std::max(share, rarest) * mass));
    double sum = 0.0;
    if (share > rarest) {
      for (const Candidate& c : candidates.glance(bound)) sum += std::exp(c.logit - highest) / mass;
    }
    if (share > rarest && sum < params.top_p) continue;
    candidates.keep_from(bound, static_cast<size_t>(params.min_keep));
    return candidates.softmax(highest, mass);
  }
}

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  if (candidates.is_view())
    keep_likely(candidates, params);
  else
    candidates.softmax();
  std::vector<Candidate>& list = candidates.list();
  // The nucleus is small: sort only as far as it reaches.
  size_t n_sorted = 0, n_kept = 0;
  double sum = 0.0;
  while (n_kept < list.size()) {
    if (n_kept == n_sorted)
      candidates.sort_front(n_sorted = std::min(list.size(), std::max<size_t>(256, n_sorted * 4)));
    sum += list[n_kept++].probability;
    if (sum >= params.top_p && n_kept >= static_cast<size_t>(params.min_keep)) break;
  }
  list.resize(n_kept);
}

}  // namespace

const Stage top_p_stage = {"top_p", [](const Params& p) { return p.top_p < 1.0f; }, apply};

}  // namespace halfbyte::sampling
