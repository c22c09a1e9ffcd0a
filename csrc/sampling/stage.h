// What a stage of the chain is: a name, when it does anything, and what it does to the candidates.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/rng.h"
#include "sampling/candidates.h"
#include "sampling/params.h"

namespace halfbyte::sampling {

// The tokens before the one being drawn: the prompt's, then the generated ones.
struct History {
  std::span<const int32_t> prompt, generated;

  int64_t size() const { return static_cast<int64_t>(prompt.size() + generated.size()); }
  // back(0) is the newest token.
  int32_t back(int64_t i) const {
    const auto n = static_cast<int64_t>(generated.size());
    return i < n ? generated[static_cast<size_t>(n - 1 - i)] : prompt[prompt.size() - 1 - static_cast<size_t>(i - n)];
  }
};

struct Stage {
  std::string_view name;
  bool (*is_active)(const Params&);
  void (*apply)(Candidates&, const Params&, const History&, Rng&);
};

// One per file.
extern const Stage penalties_stage, dry_stage, top_n_sigma_stage, top_k_stage, typical_stage, top_p_stage, min_p_stage,
    xtc_stage, temperature_stage;

// Bias, allowed ids, banned words and the mask: always first, before any stage.
void apply_bias_and_bans(std::span<float> logits, const Params&, const History&, const uint32_t* mask);

// A token by probability.
int32_t draw(Candidates&, Rng&);
// Mirostat draws by itself; mu is its state (starts at 2 tau).
int32_t draw_mirostat(Candidates&, const Params&, Rng&, float& mu);

}  // namespace halfbyte::sampling
