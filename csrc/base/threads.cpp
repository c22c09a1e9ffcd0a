// The pool: a generation counter that workers spin on briefly, then sleep on.
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

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> threads;
  int size = 1;

  // A job is published by raising `generation`; workers count themselves off in `n_running`.
  alignas(64) std::atomic<uint64_t> generation{0};
  alignas(64) std::atomic<int> n_running{0};
  alignas(64) std::atomic<int> n_asleep{0};
  std::atomic<bool> caller_asleep{false};
  std::atomic<bool> stopping{false};
  FunctionRef<void(int)>* job = nullptr;

  std::mutex mutex;
  std::condition_variable wake, done;
  std::exception_ptr failure;

  void call(int worker) {
    try {
      (*job)(worker);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; generation.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) pause_cpu();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        n_asleep.fetch_add(1);
        // Sequentially consistent on both sides: either run() sees this sleeper, or the sleeper sees the new
        // generation.
        wake.wait(lock, [&] { return generation.load() != seen; });
        n_asleep.fetch_sub(1);
      }
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      call(worker);
      if (n_running.fetch_sub(1) == 1 && caller_asleep.load()) {
        const std::lock_guard lock(mutex);
        done.notify_one();
      }
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  require(n_threads >= 1 && n_threads <= 512, "A thread pool has 1 to 512 threads, not %d.", n_threads);
  state_->size = n_threads;
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

void ThreadPool::run(FunctionRef<void(int worker)> job) {
  State& state = *state_;
  if (state.size == 1) return job(0);
  state.job = &job;
  state.n_running.store(state.size - 1);
  state.generation.fetch_add(1);
  if (state.n_asleep.load() > 0) {
    const std::lock_guard lock(state.mutex);
    state.wake.notify_all();
  }
  state.call(0);
  for (int spin = 0; state.n_running.load(std::memory_order_acquire) != 0 && spin < kSpins; ++spin) pause_cpu();
  if (state.n_running.load(std::memory_order_acquire) != 0) {
    std::unique_lock lock(state.mutex);
    state.caller_asleep.store(true);
    state.done.wait(lock, [&] { return state.n_running.load() == 0; });
    state.caller_asleep.store(false);
  }
  if (state.failure) std::rethrow_exception(std::exchange(state.failure, nullptr));
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end, int worker)> job) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t n_grains = (n + grain - 1) / grain;
  const int64_t n_workers = std::min<int64_t>(state_->size, n_grains);
  if (n_workers == 1) return job(0, n, 0);
  run([&](int worker) {
    if (worker >= n_workers) return;
    const int64_t begin = n_grains * worker / n_workers * grain;
    const int64_t end = std::min(n, n_grains * (worker + 1) / n_workers * grain);
    if (begin < end) job(begin, end, worker);
  });
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
