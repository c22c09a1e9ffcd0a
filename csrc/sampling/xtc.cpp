// XTC, exclude top choices: with some probability, drops every token above the threshold but the least likely of them.
#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History&, Rng& rng) {
  if (candidates.list().size() < 2 || rng.uniform() >= params.xtc_probability) return;
  candidates.sort();
  candidates.softmax();
  std::vector<Candidate>& list = candidates.list();
  size_t n_above = 0;
  while (n_above < list.size() && list[n_above].probability >= params.xtc_threshold) ++n_above;
  if (n_above < 2 || list.size() - (n_above - 1) < static_cast<size_t>(params.min_keep)) return;
  list.erase(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(n_above - 1));
}

}  // namespace

const Stage xtc_stage = {"xtc", [](const Params& p) { return p.xtc_probability > 0.0f && p.xtc_threshold <= 0.5f; },
                         apply};

}  // namespace halfbyte::sampling
