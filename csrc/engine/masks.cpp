// One thread and a queue.
#include "engine/masks.h"

#include <utility>

namespace halfbyte::engine {

MaskWorker::MaskWorker() : thread_([this] { loop(); }) {}

MaskWorker::~MaskWorker() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  arrived_.notify_all();
  thread_.join();
}

std::future<std::vector<MaskWords>> MaskWorker::prepare(std::shared_ptr<TokenMask> rule, std::vector<int32_t> generated,
                                                        std::vector<int32_t> drafts) {
  std::packaged_task<std::vector<MaskWords>()> task(
      [rule = std::move(rule), tokens = std::move(generated), drafts = std::move(drafts)]() mutable {
        std::vector<MaskWords> masks;
        for (size_t i = 0;; ++i) {
          const std::span<const uint32_t> words = rule->allowed(tokens);
          masks.emplace_back(words.begin(), words.end());
          if (i == drafts.size() || !is_allowed(masks.back(), drafts[i])) return masks;
          tokens.push_back(drafts[i]);
        }
      });
  std::future<std::vector<MaskWords>> masks = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  arrived_.notify_one();
  return masks;
}

void MaskWorker::loop() {
  for (;;) {
    std::packaged_task<std::vector<MaskWords>()> task;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [&] { return is_stopping_ || !tasks_.empty(); });
      if (is_stopping_) return;  // whoever still waits for a mask hears of a broken promise
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace halfbyte::engine
