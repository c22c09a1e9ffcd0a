// The draws: by probability, and mirostat 1 and 2 (Basu et al. 2020), which steer surprise towards tau.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Where the running sum of the list's probabilities passes a uniform share of their total.
size_t draw_index(Candidates& candidates, Rng& rng) {
  candidates.softmax();
  const std::vector<Candidate>& list = candidates.list();
  double total = 0.0;
  for (const Candidate& c : list) total += c.probability;
  const double target = rng.uniform() * total;
  double sum = 0.0;
  size_t last_possible = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].probability <= 0) continue;
    sum += list[i].probability;
    last_possible = i;
    if (sum > target) return i;
  }
  return last_possible;
}

// The same over a whole vocabulary: by runs of tokens first, so that only one run is looked at token by token.
int32_t draw_from_vocabulary(std::span<const float> logits, Rng& rng) {
  constexpr size_t kRun = 2048;
  const float highest = highest_of(logits);
  std::vector<double> masses;
  size_t last_run = 0;
  double total = 0.0;
  for (size_t first = 0; first < logits.size(); first += kRun) {
    masses.push_back(mass_of(logits.subspan(first, std::min(kRun, logits.size() - first)), highest));
    total += masses.back();
    if (masses.back() > 0) last_run = masses.size() - 1;
  }
  const double target = rng.uniform() * total;
  double sum = 0.0;
  size_t run = 0, last_possible = 0;
  while (run < last_run && sum + masses[run] <= target) sum += masses[run++];
  for (size_t i = run * kRun; i < logits.size(); ++i) {
    const double mass = mass_of(logits.subspan(i, 1), highest);
    if (mass <= 0) continue;
    sum += mass;
    last_possible = i;
    if (sum > target) break;
  }
  return static_cast<int32_t>(last_possible);
}

}  // namespace

int32_t draw(Candidates& candidates, Rng& rng) {
  if (candidates.is_view()) return draw_from_vocabulary(candidates.logits(), rng);
  return candidates.list()[draw_index(candidates, rng)].token;
}

int32_t draw_mirostat(Candidates& candidates, const Params& params, Rng& rng, float& mu) {
  if (candidates.is_view() && params.mirostat == 2) {
    // Room for the sums' rounding; what is rarer than mu is cut below.
    const float highest = candidates.highest_logit();
    const double mass = mass_of(candidates.logits(), highest);
    const double least = highest + std::log(mass) - (mu + 1e-3) * std::log(2.0);
    candidates.keep_from(static_cast<float>(least), 1);
    candidates.softmax(highest, mass);
  } else {
    candidates.softmax();
  }
  std::vector<Candidate>& list = candidates.list();
  if (params.mirostat == 1) {
    // Zipf exponent from the 100 best, then the k whose expected surprise is mu.
    const size_t m = std::min<size_t>(100, list.size());
    candidates.sort_front(m);
    double sum_tb = 0.0, sum_tt = 0.0;
    for (size_t i = 0; i + 1 < m; ++i) {
      const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
      const double b = std::log(std::max(1e-30, static_cast<double>(list[i].probability)) /
                                std::max(1e-30, static_cast<double>(list[i + 1].probability)));
      sum_tb += t * b;
      sum_tt += t * t;
    }
    const double s = sum_tt > 0 ? sum_tb / sum_tt : 1.0, epsilon = s - 1.0;
    const auto n = static_cast<double>(list.size());
    const double k = std::pow(epsilon * std::pow(2.0, mu) / (1.0 - std::pow(n, -epsilon)), 1.0 / s);
    const size_t n_kept = std::isfinite(k) ? static_cast<size_t>(std::clamp(k, 1.0, n)) : list.size();
    candidates.sort_front(n_kept);
    list.resize(std::max<size_t>(1, n_kept));
  } else {
    candidates.sort();
    size_t n_kept = 1;
    while (n_kept < list.size() && -std::log2(list[n_kept].probability) <= mu) ++n_kept;
    list.resize(n_kept);
  }
  const size_t chosen = draw_index(candidates, rng);
  const float surprise = -std::log2(list[chosen].probability);
  mu -= params.mirostat_eta * (surprise - params.mirostat_tau);
  return list[chosen].token;
}

}  // namespace halfbyte::sampling
