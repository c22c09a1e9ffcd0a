// What kernels do with a row or a head of activations: sums in a fixed order, norms, rotations.
#pragma once

#include "cuda/platform.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// The sum over kWide threads (a warp, or the block) of one number each, in a fixed order. shared: kWide / kWarp floats.
template <int kWide>
__device__ inline float sum_over(float x, float* shared) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  if constexpr (kWide > kWarp) {
    __syncthreads();  // everyone is done with the last sum
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    x = 0.0f;
    for (int i = 0; i < kWide / kWarp; ++i) x += shared[i];
  }
  return x;
}

struct Norm {
  bool is_layer;
  int dim;
  const float* weight;  // or nullptr, like bias
  const float* bias;
  float eps;
};

// Calls write(i, value) for each i of a row that kWide threads norm together: thread i % kWide does. n: how many there
// are, those past the row zero.
template <int kWide, class Write>
__device__ inline void norm_row(const Norm& norm, const float* x, int thread, float* shared, int n,
                                const Write& write) {
  float mean = 0.0f, squares = 0.0f;
  if (norm.is_layer) {
#pragma unroll 4
    for (int i = thread; i < norm.dim; i += kWide) mean += x[i];
    mean = sum_over<kWide>(mean, shared) / static_cast<float>(norm.dim);
  }
#pragma unroll 4
  for (int i = thread; i < norm.dim; i += kWide) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  squares = sum_over<kWide>(squares, shared) / static_cast<float>(norm.dim);
  const float scale = 1.0f / sqrtf(squares + norm.eps);
#pragma unroll 4
  for (int i = thread; i < n; i += kWide) {
    if (i >= norm.dim) {
      write(i, 0.0f);
      continue;
    }
    const float value = (x[i] - mean) * scale * (norm.weight != nullptr ? norm.weight[i] : 1.0f);
    write(i, norm.bias != nullptr ? value + norm.bias[i] : value);
  }
}

struct Rotation {
  bool is_adjacent;
  int half;  // pairs of a head; 0: it stays as it is
  const float* inv_freq;
  float magnitude;

  explicit Rotation(const ops::RopeArgs& args)
      : is_adjacent(args.kind == ops::RopeKind::adjacent),
        half(args.kind == ops::RopeKind::none ? 0 : args.rope_dim / 2),
        inv_freq(args.inv_freq),
        magnitude(args.magnitude) {}

  __device__ void rotate(float* head, int pair, int32_t position) const {
    const float angle = static_cast<float>(position) * inv_freq[pair];
    const float c = cosf(angle) * magnitude, s = sinf(angle) * magnitude;
    const int first = is_adjacent ? 2 * pair : pair, second = is_adjacent ? first + 1 : pair + half;
    const float a = head[first], b = head[second];
    head[first] = a * c - b * s;
    head[second] = a * s + b * c;
  }
};

}  // namespace halfbyte::cuda
