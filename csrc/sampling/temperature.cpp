// Temperature, and dynamic temperature by entropy: unsure distributions get the hot end of the range.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

float dynamic_temperature(Candidates& candidates, const Params& params) {
  const float low = std::max(0.0f, params.temperature - params.dynatemp_range),
              high = params.temperature + params.dynatemp_range;
  std::vector<Candidate>& list = candidates.list();
  if (list.size() < 2) return params.temperature;
  candidates.softmax();
  double entropy = 0.0;
  for (const Candidate& c : list) {
    if (c.probability > 0) entropy -= c.probability * std::log(static_cast<double>(c.probability));
  }
  const double share = entropy / std::log(static_cast<double>(list.size()));
  return low + (high - low) * static_cast<float>(std::pow(share, params.dynatemp_exponent));
}

void apply(Candidates& candidates, const Params& params, const History&, Rng&) {
  const float temperature = params.dynatemp_range > 0 ? dynamic_temperature(candidates, params) : params.temperature;
  const float floored = std::max(temperature, 1e-5f);
  if (candidates.is_view()) {
    for (float& logit : candidates.logits()) logit /= floored;
  } else {
    for (Candidate& c : candidates.list()) c.logit /= floored;
  }
}

}  // namespace

const Stage temperature_stage = {"temperature",
                                 [](const Params& p) { return p.temperature != 1.0f || p.dynatemp_range > 0; }, apply};

}  // namespace halfbyte::sampling
