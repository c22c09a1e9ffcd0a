// A small model that guesses what the large one will say.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/block_pool.h"
#include "cache/kv_store.h"
#include "engine/options.h"
#include "engine/scheduler.h"
#include "model/decoder.h"

namespace halfbyte::engine {

// Keeps a sequence of its own for each stream, in its own cache; reads prompts in chunks beside its guesses. Its
// numerics decide how many guesses are right, never what the large model says.
class DraftModel {
 public:
  // Throws invalid_argument when the vocabularies differ.
  DraftModel(std::shared_ptr<const model::Weights> weights, const model::Config& target, const EngineOptions& options);

  void add(uint64_t id, std::vector<int32_t> tokens);
  void append(uint64_t id, int32_t token);
  void finish(uint64_t id);

  // Most likely continuations of n tokens, one list for each id; fewer, or none, where the prompt is still being read.
  std::vector<std::vector<int32_t>> guess(std::span<const uint64_t> ids, int64_t n);
  // Seconds that one guess for all streams takes; 0 while not known.
  double pass_seconds() const { return pass_seconds_; }

 private:
  bool pass(std::span<const uint64_t> ids, std::vector<std::vector<int32_t>>& guesses, int64_t n);
  int32_t likeliest(std::span<const ops::Likely> likely, int64_t logit_row);

  model::Decoder decoder_;
  cache::KvStore kv_;
  cache::BlockPool pool_;
  Scheduler scheduler_;
  double pass_seconds_ = 0;
};

}  // namespace halfbyte::engine
