// Top-p (nucleus, Holtzman et al. 2019): the fewest tokens whose probabilities reach p.
#include <algorithm>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
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
