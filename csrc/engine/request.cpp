// What a request must be before it may wait.
#include "engine/request.h"

#include "base/error.h"

namespace halfbyte::engine {

void check_request(const Request& request, int64_t n_vocab, int64_t n_ctx) {
  const auto n_prompt = static_cast<int64_t>(request.prompt.size());
  require(n_prompt >= 1, "The prompt is empty: at least one token is needed.");
  for (const int32_t token : request.prompt) {
    require(token >= 0 && token < n_vocab, "Token id %d is outside the vocabulary of %lld.", token,
            static_cast<long long>(n_vocab));
  }
  require(request.max_tokens >= -1, "max_tokens is %lld; a count or -1 (no limit) was expected.",
          static_cast<long long>(request.max_tokens));
  if (n_prompt > n_ctx || (n_prompt == n_ctx && request.max_tokens != 0)) {
    throw Error(ErrorKind::context_overflow,
                format_string("The prompt has %lld tokens; the context holds %lld, the answer included.",
                              static_cast<long long>(n_prompt), static_cast<long long>(n_ctx)),
                "Shorten the prompt, or open the model with a larger n_ctx.");
  }
}

}  // namespace halfbyte::engine
