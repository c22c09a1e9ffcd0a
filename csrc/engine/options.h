// How an engine is set up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/kv_groups.h"
#include "model/weights.h"
#include "ops/kv_layout.h"

namespace halfbyte::engine {

struct EngineOptions {
  int n_threads = 0;  // 0: usable cores
  int64_t n_ctx = 0;  // longest sequence; 0: the model's, bounded by memory
  // KV pool size in tokens of which all layers keep everything; 0: enough for n_ctx, and for shared use as much again
  // on the host, and what the model's share of a device's memory leaves.
  int64_t kv_tokens = 0;
  ops::KvType k_type = ops::KvType::f16;
  ops::KvType v_type = ops::KvType::f16;
  int64_t n_batch = 512;       // token budget of a step
  int64_t max_sequences = 64;  // running at once
  int64_t max_waiting = 0;     // requests in the queue, 0: any number; more are refused with ErrorKind::busy
  bool prefix_cache = true;
  bool prompt_lookup = true;             // guess tokens from the text so far, where that pays
  int64_t max_drafts = 8;                // guessed tokens of one sequence in a step
  std::vector<std::string> token_bytes;  // bytes of each token id, for stop strings and events; may be empty
};

// Blocks of the KV cache, each for one group of layers; options resolved.
int32_t n_kv_blocks(const EngineOptions& options, const model::KvGroups& groups);

// The options with every 0 resolved; draft: a model that has a cache as long beside this one's, or nullptr. Throws
// invalid_argument, or out_of_memory when the KV cache cannot fit.
EngineOptions resolve_options(EngineOptions options, const model::Weights& weights,
                              const model::Weights* draft = nullptr);

}  // namespace halfbyte::engine
