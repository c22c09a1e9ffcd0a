// The engine: requests in from any thread, one thread that runs the model, events out to mailboxes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/mailbox.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "model/weights.h"

namespace halfbyte::engine {

// Thread-safe. Destroying it closes it. A child process that was forked since has no use of it: what would wait throws
// unsupported there, and destroying it does nothing.
class Engine {
 public:
  // draft: a small model with the same vocabulary that guesses ahead, or nullptr.
  Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options,
         std::shared_ptr<const model::Weights> draft = nullptr);
  ~Engine();

  // Cancels what runs and joins the thread; every later call but stats() and cancel() throws cancelled. Idempotent.
  void close();

  const EngineOptions& options() const;  // as resolved

  // Queues a request and returns its id; its events go to `mailbox`, the last one has finish != none. Throws
  // invalid_argument | context_overflow | busy before queueing. The resolved seed is written to `seed` when it is not
  // null.
  uint64_t submit(Request request, std::shared_ptr<Mailbox> mailbox, uint64_t* seed = nullptr);

  // Ends a request within one step; its blocks return at once. Unknown ids are ignored.
  void cancel(uint64_t request_id);

  // Runs tokens through a sequence of their own, in pieces beside the requests. goes_on, if any, is asked now and then;
  // false stops the pass. Throws invalid_argument | context_overflow | cancelled.
  std::vector<float> forward(std::vector<int32_t> tokens, ForwardOutput output,
                             std::shared_ptr<const model::AdapterSet> adapters = nullptr,
                             const std::function<bool()>& goes_on = {});

  EngineStats stats() const;
  // Throws when the block pool's counts disagree with the sequences that hold blocks. For tests and idle time.
  void check_integrity() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::engine
