// The pool: a generation counter that workers spin on briefly, then sleep on; shares of a job that idle workers steal.
#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

#if defined(__linux__)
#include <sched.h>

#include <cstdio>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halfbyte {

namespace {

// About 30 us of pauses: longer than the gap between two ops of a step, shorter than anyone notices on a battery.
constexpr int kSpins = 2000;

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What is left of one worker's share of a job: units [begin, end), under the job's tag. One word, so that the owner
// (from the front) and thieves (from the back) take units by compare-and-swap. A worker that wakes up too late finds
// another tag, or nothing, and takes nothing: nobody ever waits for it.
class Share {
 public:
  static constexpr int64_t kMostUnits = (1 << 24) - 1;

  void publish(uint64_t tag, int64_t begin, int64_t end) {
    word_.store(pack(tag, begin, end), std::memory_order_release);
  }

  // Takes up to `most` units from the front (or back) and writes them to begin and end.
  bool take(uint64_t tag, int64_t most, bool from_front, int64_t& begin, int64_t& end) {
    uint64_t word = word_.load(std::memory_order_acquire);
    for (;;) {
      const auto first = static_cast<int64_t>(word >> 24 & kMostUnits), last = static_cast<int64_t>(word & kMostUnits);
      if (word >> 48 != (tag & 0xffff) || first >= last) return false;
      const int64_t n = std::min(most, last - first);
      begin = from_front ? first : last - n;
      end = begin + n;
      const uint64_t rest = from_front ? pack(tag, end, last) : pack(tag, first, begin);
      if (word_.compare_exchange_weak(word, rest, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
    }
  }

 private:
  static uint64_t pack(uint64_t tag, int64_t begin, int64_t end) {
    return tag << 48 | static_cast<uint64_t>(begin) << 24 | static_cast<uint64_t>(end);
  }
  alignas(64) std::atomic<uint64_t> word_{0};
};

}  // namespace

struct ThreadPool::State {
  using Job = FunctionRef<void(int64_t begin, int64_t end, int worker)>;

  std::vector<std::thread> threads;
  std::vector<Share> shares;  // one a worker
  int size = 1;

  // A job is published by filling the shares and raising `generation`, its tag. It ends when `n_left` units are done.
  alignas(64) std::atomic<uint64_t> generation{0};
  alignas(64) std::atomic<int64_t> n_left{0};
  alignas(64) std::atomic<int> n_asleep{0};
  std::atomic<bool> caller_asleep{false};
  std::atomic<bool> stopping{false};
  // The running job; read only by who has taken units of it, which keeps it alive.
  const Job* job = nullptr;
  std::atomic<int64_t> units_at_once{1};

  std::mutex mutex;
  std::condition_variable wake, done;
  std::exception_ptr failure;

  explicit State(int n_threads) : shares(static_cast<size_t>(n_threads)), size(n_threads) {}

  void call(int64_t begin, int64_t end, int worker) {
    try {
      (*job)(begin, end, worker);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  // Works off the worker's own share, then what others have left. Units are counted off once at the end: the counter
  // is everybody's, and its cache line would travel with each of them.
  void help(uint64_t tag, int worker) {
    int64_t begin, end, n_done = 0;
    const int64_t most = units_at_once.load(std::memory_order_relaxed);
    for (; shares[static_cast<size_t>(worker)].take(tag, most, true, begin, end); n_done += end - begin)
      call(begin, end, worker);
    for (int i = 1; i < size; ++i) {
      Share& victim = shares[static_cast<size_t>((worker + i) % size)];
      for (; victim.take(tag, 1, false, begin, end); n_done += end - begin) call(begin, end, worker);
    }
    if (n_done > 0 && n_left.fetch_sub(n_done) == n_done && caller_asleep.load()) {
      const std::lock_guard lock(mutex);
      done.notify_one();
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; generation.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) pause_cpu();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        n_asleep.fetch_add(1);
        // Sequentially consistent on both sides: either the caller sees this sleeper, or the sleeper sees the new
        // generation.
        wake.wait(lock, [&] { return generation.load() != seen; });
        n_asleep.fetch_sub(1);
      }
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      help(seen, worker);
    }
  }
};

ThreadPool::ThreadPool(int n_threads) {
  require(n_threads >= 1 && n_threads <= 512, "A thread pool has 1 to 512 threads, not %d.", n_threads);
  state_ = std::make_unique<State>(n_threads);
  for (int worker = 1; worker < n_threads; ++worker) {
    state_->threads.emplace_back([state = state_.get(), worker] { state->work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping.store(true);
    state_->generation.fetch_add(1);
  }
  state_->wake.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::size() const {
  return state_->size;
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end, int worker)> job) {
  if (n <= 0) return;
  State& state = *state_;
  grain = std::max({grain, int64_t{1}, (n + Share::kMostUnits - 1) / Share::kMostUnits});
  const int64_t n_units = (n + grain - 1) / grain;
  if (state.size == 1 || n_units == 1) return job(0, n, 0);
  const auto run_units = [&](int64_t begin, int64_t end, int worker) {
    job(begin * grain, std::min(n, end * grain), worker);
  };
  const State::Job units = run_units;
  state.job = &units;
  state.units_at_once.store(std::max<int64_t>(1, n_units / (32 * state.size)), std::memory_order_relaxed);
  state.n_left.store(n_units);
  const uint64_t tag = state.generation.load() + 1;
  for (int w = 0; w < state.size; ++w)
    state.shares[static_cast<size_t>(w)].publish(tag, n_units * w / state.size, n_units * (w + 1) / state.size);
  state.generation.store(tag);
  if (state.n_asleep.load() > 0) {
    const std::lock_guard lock(state.mutex);
    state.wake.notify_all();
  }
  state.help(tag, 0);
  for (int spin = 0; state.n_left.load(std::memory_order_acquire) != 0 && spin < kSpins; ++spin) pause_cpu();
  if (state.n_left.load(std::memory_order_acquire) != 0) {
    std::unique_lock lock(state.mutex);
    state.caller_asleep.store(true);
    state.done.wait(lock, [&] { return state.n_left.load() == 0; });
    state.caller_asleep.store(false);
  }
  if (state.failure) std::rethrow_exception(std::exchange(state.failure, nullptr));
}

int usable_cores() {
  int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t affinity;
  if (sched_getaffinity(0, sizeof affinity, &affinity) == 0) cores = std::max(1, CPU_COUNT(&affinity));
  // A container's quota: "max 100000" or "<quota> <period>" (cgroup v2).
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    long quota = 0, period = 0;
    if (std::fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
      cores = std::min<int>(cores, std::max<long>(1, (quota + period - 1) / period));
    }
    std::fclose(file);
  }
#endif
  return cores;
}

}  // namespace halfbyte
