// Two threads with a queue each.
#include "engine/masks.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace halfbyte::engine {

namespace {

// A rule whose masks took longer than this lets others pass.
constexpr std::chrono::milliseconds kSlow(10);

std::vector<MaskWords> compute(TokenMask& rule, std::vector<int32_t> tokens, std::span<const int32_t> drafts) {
  std::vector<MaskWords> masks;
  for (size_t i = 0;; ++i) {
    const std::span<const uint32_t> words = rule.allowed(tokens);
    masks.emplace_back(words.begin(), words.end());
    if (i == drafts.size() || !is_allowed(masks.back(), drafts[i])) return masks;
    tokens.push_back(drafts[i]);
  }
}

}  // namespace

void check_mask(const MaskWords& mask, size_t n_logits) {
  require(mask.empty() || mask.size() >= (n_logits + 31) / 32, "The mask has %zu words; %zu are needed.", mask.size(),
          (n_logits + 31) / 32);
}

MaskWorker::~MaskWorker() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  for (Lane& lane : lanes_) {
    lane.arrived.notify_all();
    if (lane.thread.joinable()) lane.thread.join();
  }
}

ComingMasks MaskWorker::prepare(std::shared_ptr<TokenMask> rule, std::vector<int32_t> generated,
                                std::vector<int32_t> drafts) {
  Lane& lane = lanes_[rule->is_slow_ ? 1 : 0];
  auto task = std::make_shared<std::packaged_task<std::vector<MaskWords>()>>(
      [rule = std::move(rule), tokens = std::move(generated), drafts = std::move(drafts)] {
        const Clock::time_point start = Clock::now();
        std::vector<MaskWords> masks = compute(*rule, tokens, drafts);
        rule->is_slow_ = Clock::now() - start > kSlow;
        return masks;
      });
  ComingMasks masks = task->get_future();
  {
    const std::lock_guard lock(mutex_);
    lane.tasks.emplace_back([task = std::move(task)] { (*task)(); });
    if (!lane.thread.joinable()) lane.thread = std::thread([this, &lane] { run(lane); });
  }
  lane.arrived.notify_one();
  return masks;
}

size_t MaskWorker::admits(TokenMask& rule, std::span<const int32_t> generated, std::span<const int32_t> choices) {
  if (rule.is_slow_) return 0;
  const Clock::time_point start = Clock::now();
  const size_t n = std::min(rule.admits(generated, choices), choices.size());
  rule.is_slow_ = Clock::now() - start > kSlow;
  return n;
}

bool MaskWorker::wait(FunctionRef<bool()> is_there, Clock::time_point until) {
  std::unique_lock lock(mutex_);
  return computed_.wait_until(lock, until, [&] { return is_there(); });
}

void MaskWorker::run(Lane& lane) {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      lane.arrived.wait(lock, [&] { return is_stopping_ || !lane.tasks.empty(); });
      if (is_stopping_) return;  // whoever still waits for a mask hears of a broken promise
      task = std::move(lane.tasks.front());
      lane.tasks.pop_front();
    }
    task();
    task = nullptr;  // lets go of the rule before anyone hears of its mask
    const std::lock_guard lock(mutex_);
    computed_.notify_all();
  }
}

}  // namespace halfbyte::engine
