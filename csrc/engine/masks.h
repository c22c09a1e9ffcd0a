// Which tokens may come next, found out while the model computes.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/function_ref.h"

namespace halfbyte::engine {

// A rule that an answer is held to (a grammar). Called by one thread at a time.
class TokenMask {
 public:
  virtual ~TokenMask() = default;
  // After these tokens: bit t%32 of word t/32 is set where token t may come; empty: all may. Valid until the next call,
  // which may go back on tokens. May take its time and throw.
  virtual std::span<const uint32_t> allowed(std::span<const int32_t> generated) = 0;
  // How many of `choices` may follow these tokens, one after another: much cheaper to tell than a mask, as a rule.
  // Fewer (0) where only a mask can tell.
  virtual size_t admits(std::span<const int32_t> generated, std::span<const int32_t> choices) = 0;
  // Kept for a moment by a thread that is about to ask more than once; it is answered faster meanwhile.
  virtual std::shared_ptr<void> attention() = 0;

 private:
  friend class MaskWorker;
  std::atomic<bool> is_slow_ = false;  // its latest masks took long
};

using MaskWords = std::vector<uint32_t>;  // a copy of what allowed() gave

inline bool is_allowed(const MaskWords& mask, int32_t token) {
  const auto t = static_cast<size_t>(token);
  return mask.empty() || (t / 32 < mask.size() && (mask[t / 32] >> (t % 32) & 1) != 0);
}

// Throws invalid_argument for a mask of too few words.
void check_mask(const MaskWords& mask, size_t n_logits);

using ComingMasks = std::future<std::vector<MaskWords>>;

// Computes masks on threads of its own, those of a rule in order: rules that have taken long share one thread, so that
// the others need not wait for them.
class MaskWorker {
 public:
  using Clock = std::chrono::steady_clock;

  ~MaskWorker();

  // The mask after `generated`, then after each draft too, up to the first draft that may not come. A rule's masks may
  // be asked for again only when all that were asked for before are there.
  ComingMasks prepare(std::shared_ptr<TokenMask> rule, std::vector<int32_t> generated, std::vector<int32_t> drafts);

  // rule.admits(), in the caller's thread; 0 of a rule that takes long.
  static size_t admits(TokenMask& rule, std::span<const int32_t> generated, std::span<const int32_t> choices);

  // Waits until `is_there`, which is asked whenever masks have been computed, or until the time is up; whether it is.
  bool wait(FunctionRef<bool()> is_there, Clock::time_point until);

 private:
  // A thread and its queue.
  struct Lane {
    std::deque<std::function<void()>> tasks;
    std::condition_variable arrived;
    std::thread thread;
  };

  void run(Lane& lane);

  std::mutex mutex_;
  std::condition_variable computed_;
  std::array<Lane, 2> lanes_;  // of quick rules and of slow ones; their threads start with the first task
  bool is_stopping_ = false;
};

}  // namespace halfbyte::engine
