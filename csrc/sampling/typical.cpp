// Locally typical sampling (Meister et al. 2022): tokens whose surprise is nearest to the entropy, up to mass
// typical_p.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// -ln p of a token of the list.
double surprise_of(const Candidate& c) {
  return c.probability > 0 ? -std::log(static_cast<double>(c.probability)) : INFINITY;
}

// Of a whole vocabulary: leaves a list in which the typical tokens lie, with probabilities under all tokens. Returns
// the entropy.
double keep_near_entropy(Candidates& candidates, const Params& params) {
  const std::span<const float> logits = candidates.logits();
  const float highest = candidates.highest_logit();
  const double mass = mass_of(logits, highest), entropy = entropy_of(logits, highest, mass);
  const double normalizer = highest + std::log(mass);
  // Wider and wider around the entropy, until what lies within reaches typical_p. A bound on logits also lets tokens in
  // that are likelier than that: those are few.
  for (double width = 1.0; width < 1e3; width *= 2) {
    const auto least = static_cast<float>(normalizer - entropy - width);
    double sum = 0.0;
    int64_t n_within = 0;
    for (const Candidate& c : candidates.glance(least)) {
      const double surprise = normalizer - c.logit;
      if (std::fabs(surprise - entropy) > 0.999 * width) continue;
      sum += std::exp(-surprise);
      ++n_within;
    }
    if (sum <= params.typical_p || n_within < params.min_keep) continue;
    candidates.keep_from(least, 1);
    break;
  }
  candidates.softmax(highest, mass);
  return entropy;
}

double entropy_of_list(Candidates& candidates) {
  candidates.softmax();
  double entropy = 0.0;
  for (const Candidate& c : candidates.list()) {
    if (c.probability > 0) entropy += c.probability * surprise_of(c);
  }
  return entropy;
}

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  const double entropy = candidates.is_view() ? keep_near_entropy(candidates, params) : entropy_of_list(candidates);
  candidates.sort();
  std::vector<Candidate>& list = candidates.list();
  std::vector<std::pair<double, size_t>> distance;
  for (size_t i = 0; i < list.size(); ++i) distance.emplace_back(std::fabs(surprise_of(list[i]) - entropy), i);
  std::sort(distance.begin(), distance.end());
  std::vector<bool> kept(list.size(), false);
  double sum = 0.0;
  for (size_t i = 0; i < distance.size(); ++i) {
    kept[distance[i].second] = true;
    sum += list[distance[i].second].probability;
    if (sum > params.typical_p && i + 1 >= static_cast<size_t>(params.min_keep)) break;
  }
  size_t n_kept = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    if (kept[i]) list[n_kept++] = list[i];
  }
  list.resize(n_kept);
}

}  // namespace

const Stage typical_stage = {"typical_p", [](const Params& p) { return p.typical_p < 1.0f; }, apply};

}  // namespace halfbyte::sampling
