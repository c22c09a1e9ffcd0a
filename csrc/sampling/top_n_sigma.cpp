// Top-n-sigma (Tang et al. 2024): tokens within n standard deviations of the highest logit.
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  const float highest = candidates.highest_logit();
  std::vector<Candidate>& list = candidates.list();
  double mean = 0.0, variance = 0.0;
  for (const Candidate& c : list) mean += c.logit;
  mean /= static_cast<double>(list.size());
  for (const Candidate& c : list) variance += (c.logit - mean) * (c.logit - mean);
  const double deviation = std::sqrt(variance / static_cast<double>(list.size()));
  std::erase_if(list, [&](const Candidate& c) { return c.logit < highest - params.top_n_sigma * deviation; });
}

}  // namespace

const Stage top_n_sigma_stage = {"top_n_sigma", [](const Params& p) { return p.top_n_sigma > 0.0f; }, apply};

}  // namespace halfbyte::sampling
