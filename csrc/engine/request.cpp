// What a request must be before it may wait.
#include "engine/request.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace halfbyte::engine {

namespace {

void check_tokens(const std::vector<int32_t>& tokens, int64_t n_vocab) {
  for (const int32_t token : tokens) {
    require(token >= 0 && token < n_vocab, "Token id %d is outside the vocabulary of %lld.", token,
            static_cast<long long>(n_vocab));
  }
}

}  // namespace

void check_pass(const std::vector<int32_t>& tokens, int64_t n_vocab, const EngineOptions& options) {
  const auto n = static_cast<int64_t>(tokens.size());
  require(n >= 1, "forward() needs at least one token.");
  check_tokens(tokens, n_vocab);
  if (n <= options.kv_tokens) return;
  throw Error(ErrorKind::context_overflow,
              format_string("%lld tokens do not fit the context of %lld.", static_cast<long long>(n),
                            static_cast<long long>(options.kv_tokens)),
              "Open the model with a larger n_ctx.");
}

void check_request(const Request& request, int64_t n_vocab, const EngineOptions& options) {
  const int64_t n_ctx = options.n_ctx;
  const auto n_prompt = static_cast<int64_t>(request.prompt.size());
  require(n_prompt >= 1, "The prompt is empty: at least one token is needed.");
  check_tokens(request.prompt, n_vocab);
  require(request.max_tokens >= -1, "max_tokens is %lld; a count or -1 (no limit) was expected.",
          static_cast<long long>(request.max_tokens));
  if (n_prompt > n_ctx || (n_prompt == n_ctx && request.max_tokens != 0)) {
    throw Error(ErrorKind::context_overflow,
                format_string("The prompt has %lld tokens; the context holds %lld, the answer included.",
                              static_cast<long long>(n_prompt), static_cast<long long>(n_ctx)),
                "Shorten the prompt, or open the model with a larger n_ctx.");
  }
  require(request.beam_width >= 1 && request.beam_width <= options.max_sequences,
          "beam_width is %lld; 1 to %lld (max_sequences) were expected.", static_cast<long long>(request.beam_width),
          static_cast<long long>(options.max_sequences));
  if (request.beam_width == 1) return;
  require(request.n_hypotheses >= 1 && request.n_hypotheses <= request.beam_width,
          "%lld hypotheses of %lld beams were asked for.", static_cast<long long>(request.n_hypotheses),
          static_cast<long long>(request.beam_width));
  require(request.max_tokens != 0, "Beam search needs max_tokens of at least 1.");
  require(std::isfinite(request.length_penalty), "length_penalty is not a number.");
  require(!request.processor && !request.prompt_logprobs && request.overflow == Overflow::error,
          "Beam search takes no processors, prompt log probabilities or sliding context.");
  const int64_t n_answer = request.max_tokens < 0 ? n_ctx - n_prompt : std::min(request.max_tokens, n_ctx - n_prompt);
  // Each beam's own blocks: one that it copied, those that it fills, and the prompt again if it has to be recomputed.
  const int64_t n_needed = request.beam_width * (n_prompt + n_answer + 2 * ops::kKvBlockTokens);
  if (n_needed > options.kv_tokens) {
    throw Error(ErrorKind::out_of_memory,
                format_string("%lld beams may need %lld tokens of KV cache; it has %lld.",
                              static_cast<long long>(request.beam_width), static_cast<long long>(n_needed),
                              static_cast<long long>(options.kv_tokens)),
                "Choose fewer beams or a smaller max_tokens, or a larger kv_tokens.");
  }
}

}  // namespace halfbyte::engine
