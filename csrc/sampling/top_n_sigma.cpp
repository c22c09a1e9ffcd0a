// Top-n-sigma (Tang et al. 2024): tokens within n standard deviations of the highest logit.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Sums of what is still in the running, by lanes so that additions do not wait for each other.
class Moments {
 public:
  explicit Moments(float shift) : shift_(shift) {}

  void add(float logit, size_t i) {
    const double x = logit == -INFINITY ? 0.0 : static_cast<double>(logit) - shift_;
    n_[i % kLanes] += logit != -INFINITY;
    sum_[i % kLanes] += x;
    squares_[i % kLanes] += x * x;
  }
  double deviation() const {
    double n = 0, sum = 0, squares = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      n += n_[lane];
      sum += sum_[lane];
      squares += squares_[lane];
    }
    return std::sqrt(std::max(0.0, squares / n - (sum / n) * (sum / n)));
  }

 private:
  static constexpr size_t kLanes = 8;
  double shift_, n_[kLanes] = {}, sum_[kLanes] = {}, squares_[kLanes] = {};
};

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  const float highest = candidates.highest_logit();
  Moments moments(highest);
  if (candidates.is_view()) {
    const std::span<const float> logits = candidates.logits();
    for (size_t i = 0; i < logits.size(); ++i) moments.add(logits[i], i);
  } else {
    const std::vector<Candidate>& list = candidates.list();
    for (size_t i = 0; i < list.size(); ++i) moments.add(list[i].logit, i);
  }
  candidates.keep_from(highest - static_cast<float>(params.top_n_sigma * moments.deviation()), 1);
}

}  // namespace

const Stage top_n_sigma_stage = {"top_n_sigma", [](const Params& p) { return p.top_n_sigma > 0.0f; }, apply};

}  // namespace halfbyte::sampling
