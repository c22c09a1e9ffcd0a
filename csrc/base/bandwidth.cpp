// Sums a buffer much larger than any cache.
#include "base/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "base/buffer.h"
#include "base/threads.h"

namespace halfbyte {

double memory_bandwidth(int n_threads) {
  constexpr int64_t kWords = int64_t{32} << 20;  // 256 MiB
  Buffer buffer(static_cast<size_t>(kWords) * 8, "The bandwidth test");
  std::memset(buffer.data(), 1, buffer.size());
  ThreadPool pool(n_threads);
  volatile uint64_t sink = 0;  // the sums must be wanted, or the reads go away
  double best = 0.0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(kWords, 4096, [&](int64_t begin, int64_t end, int) {
      const uint64_t* words = buffer.as<uint64_t>();
      uint64_t sums[8] = {};
      for (int64_t i = begin; i + 8 <= end; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
      }
      uint64_t sum = 0;
      for (const uint64_t s : sums) sum += s;
      sink = sink + sum;
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kWords) * 8 / seconds.count());
  }
  return best;
}

}  // namespace halfbyte
