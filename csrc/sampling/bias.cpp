// Logit bias, allowed ids, banned word sequences and grammar masks.
#include <algorithm>
#include <cmath>

#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

void ban(std::span<float> logits, int32_t token) {
  if (token >= 0 && static_cast<size_t>(token) < logits.size()) logits[static_cast<size_t>(token)] = -INFINITY;
}

// True when the history ends with all of `word` but its last token.
bool stands_before_end(const std::vector<int32_t>& word, const History& history) {
  const auto n = static_cast<int64_t>(word.size()) - 1;
  if (n > history.size()) return false;
  for (int64_t i = 0; i < n; ++i) {
    if (history.back(i) != word[static_cast<size_t>(n - 1 - i)]) return false;
  }
  return true;
}

}  // namespace

void apply_mask(const uint32_t* mask, std::span<float> logits) {
  for (size_t first = 0; first < logits.size(); first += 32) {
    const uint32_t bits = mask[first / 32];
    if (bits == ~0u) continue;
    const std::span<float> word = logits.subspan(first, std::min<size_t>(32, logits.size() - first));
    if (bits == 0) {
      std::fill(word.begin(), word.end(), -INFINITY);
      continue;
    }
    for (size_t i = 0; i < word.size(); ++i) word[i] = (bits >> i & 1) != 0 ? word[i] : -INFINITY;
  }
}

void apply_bias_and_bans(std::span<float> logits, const Params& params, const History& history, const uint32_t* mask) {
  for (const auto& [token, bias] : params.logit_bias) {
    if (token >= 0 && static_cast<size_t>(token) < logits.size()) logits[static_cast<size_t>(token)] += bias;
  }
  if (!params.allowed_token_ids.empty()) {
    std::vector<std::pair<int32_t, float>> kept;
    for (const int32_t token : params.allowed_token_ids) kept.emplace_back(token, logits[static_cast<size_t>(token)]);
    std::fill(logits.begin(), logits.end(), -INFINITY);
    for (const auto& [token, logit] : kept) logits[static_cast<size_t>(token)] = logit;
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    if (!word.empty() && stands_before_end(word, history)) ban(logits, word.back());
  }
  if (mask != nullptr) apply_mask(mask, logits);
}

}  // namespace halfbyte::sampling
