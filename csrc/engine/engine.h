// The one thread that schedules, runs the model, samples and reports.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/mailbox.h"
#include "engine/options.h"
#include "engine/request.h"
#include "model/decoder.h"

namespace halfbyte::engine {

struct EngineStats {
  int64_t n_running = 0, n_waiting = 0;
  int64_t n_blocks = 0, n_blocks_free = 0, n_blocks_cached = 0;
  uint64_t n_steps = 0, n_prompt_tokens = 0, n_generated_tokens = 0, n_preemptions = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

// Thread-safe. Destroying it cancels what runs and joins the thread.
class Engine {
 public:
  Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options);
  ~Engine();

  const EngineOptions& options() const;  // as resolved

  // Queues a request and returns its id; its events go to `mailbox`, the last one has finish != none. Throws
  // invalid_argument | context_overflow before queueing. The resolved seed is written to `seed` when it is not null.
  uint64_t submit(Request request, std::shared_ptr<Mailbox> mailbox, uint64_t* seed = nullptr);

  // Ends a request within one step; its blocks return at once. Unknown ids are ignored.
  void cancel(uint64_t request_id);

  // What forward() returns for each token, f32.
  enum class Output : uint8_t {
    logits,         // (n_tokens, n_vocab)
    hidden,         // (n_tokens, n_embd): final hidden states, normalized
    next_logprobs,  // (n_tokens - 1): log p(token i+1 | tokens 0..i)
  };
  // Runs tokens through an empty sequence. Waits its turn between steps.
  std::vector<float> forward(const std::vector<int32_t>& tokens, Output output);

  EngineStats stats() const;
  // Throws when the block pool's counts disagree with the sequences that hold blocks. For tests and idle time.
  void check_integrity() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::engine
