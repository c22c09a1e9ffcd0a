// The most likely tokens of rows of logits: a tournament of sorted runs, chunk by chunk, round by round.
#include "cuda/likely.h"

namespace halfbyte::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kChunkKeys = 2048;  // that a block keeps the best kBest of

// Higher for better candidates, and different for all of a row; 0: cannot be chosen.
using Key = uint64_t;

__device__ inline Key key_of(float logit, int64_t token) {
  if (!(logit > -INFINITY)) return 0;
  const uint32_t bits = float_to_bits(logit + 0.0f);  // both zeros are equal
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | ~static_cast<uint32_t>(token);
}

struct LikelyJob {
  const float* logits;  // (rows, n_vocab)
  int64_t n_vocab;
  const Key* keys;  // (rows, n_keys) of the round before; nullptr in the first one, whose keys are the logits
  int64_t n_keys;
  Key* kept;  // (rows, chunks, kBest); nullptr in the last round, which writes `out`
  ops::Likely* out;
  int n_likely;
};

__device__ inline void order(Key& better, Key& worse) {
  const Key a = better, b = worse;
  better = a > b ? a : b;
  worse = a > b ? b : a;
}

// Where the i-th pair of keys `step` apart begins, in runs of 2 * step.
__device__ inline int pair_at(int i, int step) {
  return 2 * i - (i & (step - 1));
}

// The best kBest (a power of two) of kChunkKeys keys come to the front, best first.
template <int kBest>
__device__ inline void keep_best(Key* keys, int thread) {
  // Runs of kBest keys are sorted: best first where the run's number is even, best last where it is odd.
  for (int size = 2; size <= kBest; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = thread; i < kChunkKeys / 2; i += kThreads) {
        const int at = pair_at(i, step);
        if ((at & size) == 0)
          order(keys[at], keys[at + step]);
        else
          order(keys[at + step], keys[at]);
      }
      __syncthreads();
    }
  }
  // Of two neighbours, an even and an odd one, the better halves make one run, which is sorted in turn. A run's place
  // is that of its even part.
  for (int spacing = kBest; spacing < kChunkKeys; spacing *= 2) {
    const int n_left = kChunkKeys / (2 * spacing) * kBest;
    for (int i = thread; i < n_left; i += kThreads) {
      Key* at = keys + i / kBest * 2 * spacing + i % kBest;
      at[0] = at[spacing] > at[0] ? at[spacing] : at[0];
    }
    __syncthreads();
    for (int step = kBest / 2; step > 0; step /= 2) {
      for (int i = thread; i < n_left / 2; i += kThreads) {
        const int pair = pair_at(i, step), run = pair / kBest;
        Key* at = keys + run * 2 * spacing + pair % kBest;
        if (run % 2 == 0)
          order(at[0], at[step]);
        else
          order(at[step], at[0]);
      }
      __syncthreads();
    }
  }
}

// A block a chunk of a row.
template <int kBest>
__global__ void __launch_bounds__(kThreads) keep_likely(const LikelyJob job) {
  __shared__ Key keys[kChunkKeys];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.y, chunk = blockIdx.x, first = chunk * kChunkKeys;
  const float* logits = job.logits + row * job.n_vocab;
  for (int i = thread; i < kChunkKeys; i += kThreads) {
    const int64_t at = first + i;
    keys[i] = at >= job.n_keys ? 0 : job.keys != nullptr ? job.keys[row * job.n_keys + at] : key_of(logits[at], at);
  }
  __syncthreads();
  keep_best<kBest>(keys, thread);
  if (job.kept != nullptr) {
    for (int i = thread; i < kBest; i += kThreads) job.kept[(row * gridDim.x + chunk) * kBest + i] = keys[i];
    return;
  }
  for (int i = thread; i < job.n_likely; i += kThreads) {
    const auto token = static_cast<int32_t>(~static_cast<uint32_t>(keys[i]));
    job.out[row * job.n_likely + i] = keys[i] == 0 ? ops::Likely{-1, 0.0f} : ops::Likely{token, logits[token]};
  }
}

int64_t chunks_of(int64_t n_keys) {
  return (n_keys + kChunkKeys - 1) / kChunkKeys;
}

template <int kBest>
void find(Session& session, LikelyJob job, int64_t n_rows) {
  const int64_t most = n_rows * chunks_of(job.n_keys) * kBest;
  auto* rounds =
      reinterpret_cast<Key*>(session.scratch(Session::Purpose::likely, 2 * most * static_cast<int64_t>(sizeof(Key))));
  for (int round = 0;; ++round) {
    const int64_t n_chunks = chunks_of(job.n_keys);
    job.kept = n_chunks > 1 ? rounds + round % 2 * most : nullptr;
    launch(session.stream(), dim3(static_cast<unsigned>(n_chunks), static_cast<unsigned>(n_rows)), dim3(kThreads), 0,
           keep_likely<kBest>, job);
    if (n_chunks == 1) return;
    job.keys = job.kept;
    job.n_keys = n_chunks * kBest;
  }
}

}  // namespace

int64_t likely_bytes(int64_t n_rows, int64_t n_vocab) {
  return 2 * n_rows * chunks_of(n_vocab) * ops::kMostLikely * static_cast<int64_t>(sizeof(Key));
}

void likely(const ops::Context& context, const float* logits, int64_t n_rows, int64_t n_vocab, int n_likely,
            ops::Likely* out) {
  if (n_rows == 0) return;
  Session& session = session_of(context);
  const LikelyJob job = {logits, n_vocab, nullptr, n_vocab, nullptr, out, n_likely};
  static_assert(ops::kMostLikely == 256);
  if (n_likely == 1)
    find<1>(session, job, n_rows);
  else if (n_likely <= 64)
    find<64>(session, job, n_rows);
  else
    find<256>(session, job, n_rows);
}

}  // namespace halfbyte::cuda
