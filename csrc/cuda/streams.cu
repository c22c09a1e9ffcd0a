// Rows of several streams, rows as large as others, and cut gates. A row's sums are those of one block.
#include "cuda/rows.cuh"
#include "cuda/streams.h"

namespace halfbyte::cuda {

namespace {

constexpr int kThreads = 256;

// A thread has one column of a row's streams: it reads all of them before it writes any.
__global__ void mix_streams(const ops::Mix mix, int64_t n_tokens, int64_t n) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, token = index / n, i = index % n;
  if (token >= n_tokens) return;
  const float* weights = mix.weights + token * mix.weight_stride;
  const float* in = mix.in + token * mix.in_stride + i;
  float* out = mix.out + token * mix.out_stride + i;
  float sums[ops::kMostStreams];
#pragma unroll
  for (int s = 0; s < ops::kMostStreams; ++s) {
    if (s >= mix.n_out) break;
    sums[s] = mix.accumulate ? out[s * n] : 0.0f;
    for (int r = 0; r < mix.n_in; ++r) sums[s] = fmaf(weights[s * mix.n_in + r], in[r * n], sums[s]);
  }
#pragma unroll
  for (int s = 0; s < ops::kMostStreams; ++s) {
    if (s >= mix.n_out) break;
    out[s * n] = sums[s];
  }
}

// The mean of f(x[i]) over a row of n.
template <class F>
__device__ inline float mean_over(const float* x, int n, float* shared, const F& f) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) sum += f(x[i]);
  return sum_over<kThreads>(sum, shared) / static_cast<float>(n);
}

__global__ void __launch_bounds__(kThreads)
    match_rows(float* x, int64_t x_stride, const float* like, int64_t like_stride, int n, float floor) {
  __shared__ float shared[kThreads / kWarp];
  const auto square = [](float v) { return v * v; };
  float* row = x + blockIdx.x * x_stride;
  const float wanted = sqrtf(mean_over(like + blockIdx.x * like_stride, n, shared, square));
  const float factor = wanted / fmaxf(sqrtf(mean_over(row, n, shared, square)), floor);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) row[i] *= factor;
}

__global__ void __launch_bounds__(kThreads) cut_rows(float* x, int64_t x_stride, int n, float deviations) {
  __shared__ float shared[kThreads / kWarp];
  float* row = x + blockIdx.x * x_stride;
  const float mean = mean_over(row, n, shared, [](float v) { return v; });
  const float variance = mean_over(row, n, shared, [mean](float v) { return (v - mean) * (v - mean); });
  const float least = fmaf(deviations, sqrtf(variance), mean);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) row[i] = fmaxf(row[i] - least, 0.0f);
}

}  // namespace

void mix(const ops::Context& context, const ops::Mix& args, int64_t n_tokens, int64_t n) {
  if (n_tokens * n == 0) return;
  const auto n_blocks = static_cast<unsigned>((n_tokens * n + kThreads - 1) / kThreads);
  launch(session_of(context).stream(), dim3(n_blocks), dim3(kThreads), 0, mix_streams, args, n_tokens, n);
}

void match_size(const ops::Context& context, float* x, int64_t x_stride, const float* like, int64_t like_stride,
                int64_t n_tokens, int64_t n, float floor) {
  if (n_tokens * n == 0) return;
  launch(session_of(context).stream(), dim3(static_cast<unsigned>(n_tokens)), dim3(kThreads), 0, match_rows, x,
         x_stride, like, like_stride, static_cast<int>(n), floor);
}

void cut(const ops::Context& context, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations) {
  if (n_tokens * n == 0) return;
  launch(session_of(context).stream(), dim3(static_cast<unsigned>(n_tokens)), dim3(kThreads), 0, cut_rows, x, x_stride,
         static_cast<int>(n), deviations);
}

}  // namespace halfbyte::cuda
