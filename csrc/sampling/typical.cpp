// Locally typical sampling (Meister et al. 2022): tokens whose surprise is nearest to the entropy, up to mass
// typical_p.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  candidates.sort();
  candidates.softmax();
  std::vector<Candidate>& list = candidates.list();
  double entropy = 0.0;
  for (const Candidate& c : list) {
    if (c.probability > 0) entropy -= c.probability * std::log(static_cast<double>(c.probability));
  }
  std::vector<std::pair<double, size_t>> distance;
  for (size_t i = 0; i < list.size(); ++i) {
    const double surprise = list[i].probability > 0 ? -std::log(static_cast<double>(list[i].probability)) : INFINITY;
    distance.emplace_back(std::fabs(surprise - entropy), i);
  }
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
