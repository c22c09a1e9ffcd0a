// The sampler chain: logits of one row in, one token out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "sampling/candidates.h"
#include "sampling/params.h"

namespace halfbyte::sampling {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;
};

// log of the sum of exp(logits).
float log_sum_exp(std::span<const float> logits);

// Sets to -inf what a mask leaves out: (n_vocab + 31) / 32 words with bit t%32 of word t/32 set where token t is
// allowed (llguidance's format).
void apply_mask(const uint32_t* mask, std::span<float> logits);

// The most likely token of a row of logits, the lowest id among equals; token -1 where none is a number above -inf.
Candidate likeliest(std::span<const float> logits);

// The n most likely tokens of a row of logits, best first.
std::vector<TokenLogprob> most_likely(std::span<float> logits, size_t n);

struct Sample {
  int32_t token = 0;
  float logprob = 0.0f;                    // of `token` under softmax of the raw logits (bias and masks not applied)
  std::vector<TokenLogprob> top_logprobs;  // Params::n_logprobs most likely, best first
};

// One request's chain with its state (rng, mirostat's mu). Not thread-safe; different chains are independent.
class Chain {
 public:
  // Throws Error(invalid_argument) for values that mean nothing (NaN, unknown stage, token ids outside the vocabulary).
  // params.seed must be set.
  Chain(const Params& params, int32_t n_vocab);
  ~Chain();
  Chain(Chain&&) noexcept;
  Chain& operator=(Chain&&) noexcept;

  // `history`: prompt tokens, then generated ones. `logits`: (n_vocab), changed in place. `mask`: nullptr, or as
  // apply_mask() takes it. Ties break towards the lower token id. Throws Error(invalid_argument) when every logit is
  // NaN or masked.
  Sample sample(std::span<float> logits, std::span<const int32_t> prompt, std::span<const int32_t> generated,
                const uint32_t* mask = nullptr);

  // How many of the most likely tokens decide what sample() draws without a mask, whatever the logits of the others
  // are. 0: what it returns depends on all of them.
  int64_t n_deciding() const;
  // sample() told only the n_deciding() most likely tokens of a row, or more of them: none at -inf, best first.
  Sample sample_among(std::span<const Candidate> best, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Names that Params::order accepts, in default order.
std::span<const std::string_view> stage_names();

}  // namespace halfbyte::sampling
