// Everything a request can ask of the sampler. Python's SamplingParams mirrors these names and defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace halfbyte::sampling {

// Neutral defaults mean "off": a stage whose parameters are neutral is not run.
struct Params {
  float temperature = 0.8f;     // <= 0: greedy
  float dynatemp_range = 0.0f;  // > 0: dynamic temperature in [temperature - range, temperature + range] by entropy
  float dynatemp_exponent = 1.0f;
  int32_t top_k = 40;            // <= 0: off
  float top_p = 0.95f;           // >= 1: off
  float min_p = 0.05f;           // <= 0: off
  float typical_p = 1.0f;        // >= 1: off
  float top_n_sigma = -1.0f;     // <= 0: off
  float xtc_probability = 0.0f;  // <= 0: off
  float xtc_threshold = 0.1f;    // > 0.5: off
  int32_t min_keep = 1;          // candidates that top-p, min-p, typical and XTC always leave

  float repeat_penalty = 1.0f;  // divides positive, multiplies negative logits of seen tokens
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int32_t repeat_last_n = 64;  // window of the three penalties; -1: all, 0: off

  float dry_multiplier = 0.0f;  // 0: off
  float dry_base = 1.75f;
  int32_t dry_allowed_length = 2;
  int32_t dry_penalty_last_n = -1;                          // -1: all
  std::vector<std::vector<int32_t>> dry_sequence_breakers;  // token sequences

  int32_t mirostat = 0;  // 1, 2: replaces top-k .. min-p and typical
  float mirostat_tau = 5.0f;
  float mirostat_eta = 0.1f;

  std::vector<std::pair<int32_t, float>> logit_bias;  // -inf bans
  std::vector<int32_t> allowed_token_ids;             // empty: all
  std::vector<std::vector<int32_t>> bad_words;        // token sequences that must not be completed

  // Stage order; empty: penalties, dry, top_n_sigma, top_k, typical_p, top_p, min_p, xtc, temperature.
  std::vector<std::string> order;

  std::optional<uint64_t> seed;  // none: drawn by the engine and reported
  int32_t n_logprobs = -1;       // -1: none; 0: the chosen token's; n: also the n most likely
};

}  // namespace halfbyte::sampling
