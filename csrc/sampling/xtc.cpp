// XTC, exclude top choices: with some probability, drops every token above the threshold but the least likely of them.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Few of the n tokens in the running lie above the threshold: they are masked, and the others need no list.
void drop_from_vocabulary(Candidates& candidates, size_t n, const Params& params) {
  const std::span<float> logits = candidates.logits();
  const float highest = candidates.highest_logit();
  const double threshold = std::max(0.0f, params.xtc_threshold) * mass_of(logits, highest);
  const std::vector<Candidate>& above = candidates.glance(highest + static_cast<float>(std::log(threshold)));
  if (above.size() < 2 || n - (above.size() - 1) < static_cast<size_t>(params.min_keep)) return;
  const int32_t kept = std::ranges::max_element(above, better)->token;
  for (const Candidate& c : above) {
    if (c.token != kept) logits[static_cast<size_t>(c.token)] = -INFINITY;
  }
}

void apply(Candidates& candidates, const Params& params, const History&, Rng& rng) {
  const size_t n = candidates.size();
  if (n < 2 || rng.uniform() >= params.xtc_probability) return;
  if (candidates.is_view()) return drop_from_vocabulary(candidates, n, params);
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
