// DRY, "don't repeat yourself": a token that would extend a repetition is penalized exponentially in its length.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Tokens since the newest sequence breaker ended; repetitions do not reach across it.
int64_t tokens_since_breaker(const Params& params, const History& history, int64_t window) {
  for (int64_t i = 0; i < window; ++i) {
    int64_t longest = -1;
    for (const std::vector<int32_t>& breaker : params.dry_sequence_breakers) {
      const auto n = static_cast<int64_t>(breaker.size());
      if (n == 0 || n - 1 > i) continue;
      bool matches = true;
      for (int64_t j = 0; j < n && matches; ++j) matches = history.back(i - j) == breaker[static_cast<size_t>(j)];
      if (matches) longest = std::max(longest, n - 1);
    }
    if (longest >= 0) return i - longest;
  }
  return window;
}

bool is_breaker_token(const Params& params, int32_t token) {
  return std::any_of(params.dry_sequence_breakers.begin(), params.dry_sequence_breakers.end(),
                     [&](const std::vector<int32_t>& b) { return b.size() == 1 && b[0] == token; });
}

void apply(Candidates& candidates, const Params& params, const History& history, Rng&) {
  const int64_t window =
      params.dry_penalty_last_n < 0 ? history.size() : std::min<int64_t>(history.size(), params.dry_penalty_last_n);
  if (window <= params.dry_allowed_length) return;
  const int64_t limit = tokens_since_breaker(params, history, window);
  if (limit < params.dry_allowed_length) return;

  // z[i]: how far the text ending i tokens ago agrees backwards with the text's end (Z algorithm on the reversed text).
  std::vector<int64_t> z(static_cast<size_t>(window), 0);
  int64_t left = 0, right = 0;
  for (int64_t i = 1; i < window; ++i) {
    int64_t length = i < right ? std::min(right - i, z[static_cast<size_t>(i - left)]) : 0;
    while (i + length < window && history.back(length) == history.back(i + length)) ++length;
    z[static_cast<size_t>(i)] = length;
    if (i + length > right) left = i, right = i + length;
  }
  // The token that followed each earlier occurrence would extend it.
  std::unordered_map<int32_t, int64_t> longest;
  for (int64_t i = 1; i < window; ++i) {
    const int64_t length = std::min(z[static_cast<size_t>(i)], limit);
    if (length < params.dry_allowed_length) continue;
    int64_t& known = longest[history.back(i - 1)];
    known = std::max(known, length);
  }
  const double max_exponent = params.dry_base > 1.000001f ? 88.0 / std::log(static_cast<double>(params.dry_base)) : 1e9;
  const auto penalty = [&](int64_t length) {
    const double exponent = std::min(static_cast<double>(length - params.dry_allowed_length), max_exponent);
    return static_cast<float>(params.dry_multiplier * std::pow(static_cast<double>(params.dry_base), exponent));
  };
  std::erase_if(longest, [&](const auto& item) { return is_breaker_token(params, item.first); });
  candidates.adjust(longest, [&](float logit, int64_t length) { return logit - penalty(length); });
}

}  // namespace

const Stage dry_stage = {"dry", [](const Params& p) { return p.dry_multiplier > 0.0f && p.dry_penalty_last_n != 0; },
                         apply};

}  // namespace halfbyte::sampling
