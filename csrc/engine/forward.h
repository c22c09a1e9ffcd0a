// Raw passes over a list of tokens: logits, hidden states or log probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "cache/block_pool.h"
#include "cache/kv_store.h"
#include "engine/engine.h"
#include "model/decoder.h"

namespace halfbyte::engine {

// Rows whose logits are computed at once: bounds the logits buffer for large vocabularies.
inline constexpr int64_t kForwardChunk = 64;

// log softmax(logits)[token].
float log_softmax_at(std::span<const float> logits, int32_t token);

// See Engine::forward. Blocks come from `pool`; free_blocks() is asked for more when it is empty.
std::vector<float> run_forward(model::Decoder& decoder, cache::KvStore& kv, cache::BlockPool& pool,
                               FunctionRef<void()> free_blocks, const std::vector<int32_t>& tokens,
                               Engine::Output output, int64_t chunk);

}  // namespace halfbyte::engine
