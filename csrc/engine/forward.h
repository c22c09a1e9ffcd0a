// Raw passes over a list of tokens: logits, hidden states or log probabilities.
#pragma once

#include <cstdint>
#include <future>
#include <span>
#include <vector>

#include "model/room.h"

namespace halfbyte::engine {

// Rows of a pass whose logits are computed in one step: bounds the logits buffer for large vocabularies.
inline constexpr int64_t kForwardChunk = model::DeviceBudget::kForwardRows;

// What a pass returns for each token, f32.
enum class ForwardOutput : uint8_t {
  logits,         // (n_tokens, n_vocab)
  hidden,         // (n_tokens, n_embd): final hidden states, normalized
  next_logprobs,  // (n_tokens - 1): log p(token i+1 | tokens 0..i)
};

// log softmax(logits)[token].
float log_softmax_at(std::span<const float> logits, int32_t token);

// What steps bring of a pass, until whoever waits for it has it all. Steps may come again for rows that were taken
// (after a preemption): they are passed over.
class ForwardPass {
 public:
  ForwardPass(ForwardOutput output, std::vector<int32_t> tokens) : output_(output), tokens_(std::move(tokens)) {}

  ForwardOutput output() const { return output_; }
  std::future<std::vector<float>> result() { return result_.get_future(); }

  // `values`: logits or hidden states of n_rows tokens from first_position on.
  void take(int64_t first_position, int64_t n_rows, std::span<const float> values);
  // Hands the result over.
  void finish() { result_.set_value(std::move(values_)); }
  void fail(std::exception_ptr error) { result_.set_exception(std::move(error)); }

 private:
  ForwardOutput output_;
  std::vector<int32_t> tokens_;
  int64_t n_taken_ = 0;
  std::vector<float> values_;
  std::promise<std::vector<float>> result_;
};

}  // namespace halfbyte::engine
