// The thread pool: one set of workers that spins briefly between jobs and then sleeps.
#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"

namespace halfbyte {

// Workers are made once. The thread that calls parallel_for() is worker 0. Not reentrant: one caller
// at a time, and a job must not use its own pool. An exception in a job is rethrown to the caller after the others'
// work.
class ThreadPool {
 public:
  // n_threads counts the caller, 1..512.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls job(begin, end, worker) until 0..n is covered, boundaries at multiples of `grain`. Each worker begins with a
  // contiguous share and then takes from others' shares, so that a worker the system put aside holds nobody up. A
  // worker may be called several times, never by two threads at once; which range goes to whom is not fixed.
  void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end, int worker)> job);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Physical cores this process may use (affinity mask and cgroup quota respected), at least 1.
int usable_cores();

}  // namespace halfbyte
