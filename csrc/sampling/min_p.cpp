// Min-p (Nguyen et al. 2024): tokens at least min_p times as likely as the best.
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

const Stage min_p_stage = {"min_p", [](const Params& p) { return p.min_p > 0.0f; },
                           [](Candidates& c, const Params& p, const History&, Rng&) {
                             c.keep_from(c.highest_logit() + std::log(p.min_p), static_cast<size_t>(p.min_keep));
                           }};

}  // namespace halfbyte::sampling
