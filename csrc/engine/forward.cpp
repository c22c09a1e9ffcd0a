// Rows are taken in order, each once.
#include "engine/forward.h"

#include <algorithm>
#include <cmath>

namespace halfbyte::engine {

float log_softmax_at(std::span<const float> logits, int32_t token) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  return static_cast<float>(logits[static_cast<size_t>(token)] - highest - std::log(sum));
}

void ForwardPass::take(int64_t first_position, int64_t n_rows, std::span<const float> values) {
  const size_t width = values.size() / static_cast<size_t>(n_rows);
  for (; n_taken_ >= first_position && n_taken_ < first_position + n_rows; ++n_taken_) {
    const std::span<const float> row = values.subspan(static_cast<size_t>(n_taken_ - first_position) * width, width);
    const auto next = static_cast<size_t>(n_taken_) + 1;
    if (output_ != ForwardOutput::next_logprobs)
      values_.insert(values_.end(), row.begin(), row.end());
    else if (next < tokens_.size())
      values_.push_back(log_softmax_at(row, tokens_[next]));
  }
}

}  // namespace halfbyte::engine
