// Raw passes over a list of tokens: logits, hidden states or log probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "cache/block_pool.h"
#include "cache/kv_store.h"
#include "model/decoder.h"

namespace halfbyte::engine {

// Rows whose logits are computed at once: bounds the logits buffer for large vocabularies.
inline constexpr int64_t kForwardChunk = 64;

// What run_forward() returns for each token, f32.
enum class ForwardOutput : uint8_t {
  logits,         // (n_tokens, n_vocab)
  hidden,         // (n_tokens, n_embd): final hidden states, normalized
  next_logprobs,  // (n_tokens - 1): log p(token i+1 | tokens 0..i)
};

// log softmax(logits)[token].
float log_softmax_at(std::span<const float> logits, int32_t token);

// Runs tokens through an empty sequence. Blocks come from `pool`; free_blocks() is asked for more when it is empty.
std::vector<float> run_forward(model::Decoder& decoder, cache::KvStore& kv, cache::BlockPool& pool,
                               FunctionRef<void()> free_blocks, const std::vector<int32_t>& tokens,
                               ForwardOutput output, int64_t chunk, const model::AdapterSet* adapters);

}  // namespace halfbyte::engine
