// What the card can do at most, as one JSON object: bytes a second copied in its memory (read and written), and bf16
// and int8 multiply-adds a second on its tensor cores (mma.sync from registers, as the kernels use them).
#include <cstdio>

#include "cuda/platform.h"

namespace {

using namespace halfbyte::cuda;

__global__ void copy(const uint4* from, uint4* to, size_t n) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) to[i] = from[i];
}

constexpr int kRounds = 4096;

__global__ void multiply_bfloat(float* out) {
  float c[8][4] = {};
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3};
  for (int i = 0; i < kRounds; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) mma_bfloat(c[j], a, 4, 5);
  }
  float sum = 0.0f;
  for (int j = 0; j < 8; ++j) sum += c[j][0] + c[j][1] + c[j][2] + c[j][3];
  out[size_t{blockIdx.x} * blockDim.x + threadIdx.x] = sum;
}

__global__ void multiply_int8(float* out) {
  int c[8][4] = {};
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3};
  for (int i = 0; i < kRounds; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) mma_k32<true>(c[j], a, 4, 5);
  }
  int sum = 0;
  for (int j = 0; j < 8; ++j) sum += c[j][0] + c[j][1] + c[j][2] + c[j][3];
  out[size_t{blockIdx.x} * blockDim.x + threadIdx.x] = static_cast<float>(sum);
}

// Seconds of the fastest of five runs.
template <class Run>
double best_of_five(const Run& run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "creating an event");
  check(cudaEventCreate(&end), "creating an event");
  float best = 1e30f;
  for (int i = 0; i < 6; ++i) {  // the first one warms up
    check(cudaEventRecord(begin), "timing");
    run();
    check(cudaEventRecord(end), "timing");
    check(cudaEventSynchronize(end), "timing");
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    if (i > 0 && milliseconds < best) best = milliseconds;
  }
  return best / 1e3;
}

}  // namespace

int main() {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "asking for the device");
  constexpr size_t kBytes = size_t{1} << 30;
  void* memory = nullptr;
  check(cudaMalloc(&memory, 2 * kBytes), "allocating 2 GiB");
  auto* from = static_cast<uint4*>(memory);
  check(cudaMemset(memory, 0, 2 * kBytes), "clearing memory");
  const auto blocks = static_cast<unsigned>(device.multiProcessorCount * 8);
  const double copied = best_of_five([&] { copy<<<blocks, 512>>>(from, from + kBytes / 16, kBytes / 16); });
  auto* out = reinterpret_cast<float*>(from);
  const double products = 8.0 * kRounds * blocks * 8;  // mma instructions: 8 warps a block
  const double bfloat = best_of_five([&] { multiply_bfloat<<<blocks, 256>>>(out); });
  const double int8 = best_of_five([&] { multiply_int8<<<blocks, 256>>>(out); });
  std::printf("{\"name\": \"%s\", \"copy_bytes_per_second\": %.4g, \"bf16_flops\": %.4g, \"int8_ops\": %.4g}\n",
              device.name, 2.0 * kBytes / copied, products * 2 * 16 * 8 * 16 / bfloat,
              products * 2 * 16 * 8 * 32 / int8);
}
