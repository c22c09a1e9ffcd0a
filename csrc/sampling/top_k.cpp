// Top-k: the k most likely tokens.
#include <algorithm>

#include "sampling/stage.h"

namespace halfbyte::sampling {

const Stage top_k_stage = {"top_k", [](const Params& p) { return p.top_k > 0; },
                           [](Candidates& c, const Params& p, const History&, Rng&) {
                             c.select_top(static_cast<size_t>(std::max(p.top_k, p.min_keep)));
                           }};

}  // namespace halfbyte::sampling
