// The thread pool: one set of workers that spins briefly between jobs and then sleeps.
#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"

namespace halfbyte {

// Workers are made once. The thread that calls run() is worker 0. Not reentrant: one caller at a time, and a job
// must not call run() on its own pool. An exception in a job is rethrown to the caller after every worker stopped.
class ThreadPool {
 public:
  // n_threads counts the caller, 1..512.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls job(worker) once for each worker in 0..size()-1 and waits for all.
  void run(FunctionRef<void(int worker)> job);

  // Splits 0..n into one contiguous range a worker, boundaries at multiples of `grain`; the split depends on n, grain
  // and size() only. Workers with an empty range are not called; a single range runs on the caller alone.
  void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end, int worker)> job);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Physical cores this process may use (affinity mask and cgroup quota respected), at least 1.
int usable_cores();

}  // namespace halfbyte
