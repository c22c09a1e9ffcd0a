// Which tokens may come next, found out while the model computes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace halfbyte::engine {

// A rule that an answer is held to (a grammar). Called by one thread at a time.
class TokenMask {
 public:
  virtual ~TokenMask() = default;
  // After these tokens: bit t%32 of word t/32 is set where token t may come; empty: all may. Valid until the next call,
  // which may go back on tokens. May take its time and throw.
  virtual std::span<const uint32_t> allowed(std::span<const int32_t> generated) = 0;
};

using MaskWords = std::vector<uint32_t>;  // a copy of what allowed() gave

inline bool is_allowed(const MaskWords& mask, int32_t token) {
  const auto t = static_cast<size_t>(token);
  return mask.empty() || (t / 32 < mask.size() && (mask[t / 32] >> (t % 32) & 1) != 0);
}

// Computes masks on a thread of its own, in order.
class MaskWorker {
 public:
  MaskWorker();
  ~MaskWorker();
  MaskWorker(const MaskWorker&) = delete;
  MaskWorker& operator=(const MaskWorker&) = delete;

  // The mask after `generated`, then after each draft too, up to the first draft that may not come.
  std::future<std::vector<MaskWords>> prepare(std::shared_ptr<TokenMask> rule, std::vector<int32_t> generated,
                                              std::vector<int32_t> drafts);

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::packaged_task<std::vector<MaskWords>()>> tasks_;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace halfbyte::engine
