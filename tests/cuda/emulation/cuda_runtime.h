// What the CUDA backend uses of the CUDA runtime, on the host: one device, one stream at a time, recorded graphs.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaError_t = int;
inline constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };

namespace emulation {

struct Graph {
  std::vector<std::function<void()>> nodes;
};
struct Stream {
  bool is_recording = false;
  Graph recorded;
  // Runs the work now, or records it.
  void submit(std::function<void()> work) {
    if (is_recording)
      recorded.nodes.push_back(std::move(work));
    else
      work();
  }
};
inline int64_t& bytes_in_use() {
  static int64_t n = 0;
  return n;
}
inline constexpr int64_t kDeviceBytes = int64_t{1} << 30;
// Begin and end of what is allocated on the device.
inline std::map<const void*, const void*>& allocations() {
  static std::map<const void*, const void*> all;
  return all;
}
inline bool is_on_device(const void* p) {
  const auto after = allocations().upper_bound(p);
  return after != allocations().begin() && p < std::prev(after)->second;
}
inline int64_t bytes_downloaded = 0;

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem, sharedMemPerBlockOptin;
};

inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "out of memory" : "error";
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"emulated device", 9, 0, 4, size_t{1} << 30, size_t{227} << 10};
  return cudaSuccess;
}
struct cudaFuncAttributes {};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** p, size_t n) {
  if (emulation::bytes_in_use() + static_cast<int64_t>(n) > emulation::kDeviceBytes) return cudaErrorMemoryAllocation;
  auto* head = static_cast<size_t*>(std::aligned_alloc(256, (n + 256 + 255) / 256 * 256));
  *head = n;
  emulation::bytes_in_use() += static_cast<int64_t>(n);
  *p = reinterpret_cast<std::byte*>(head) + 256;
  emulation::allocations()[*p] = static_cast<std::byte*>(*p) + n;
  std::memset(*p, 0xff, n);  // as a device's memory: whatever was there (here: not a number)
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  if (p == nullptr) return cudaSuccess;
  emulation::allocations().erase(p);
  auto* head = reinterpret_cast<size_t*>(static_cast<std::byte*>(p) - 256);
  emulation::bytes_in_use() -= static_cast<int64_t>(*head);
  std::free(head);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t n) {
  *p = std::malloc(n);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *free_bytes = static_cast<size_t>(emulation::kDeviceBytes - emulation::bytes_in_use());
  *total = static_cast<size_t>(emulation::kDeviceBytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  if (emulation::is_on_device(from) && !emulation::is_on_device(to))
    emulation::bytes_downloaded += static_cast<int64_t>(n);
  std::memcpy(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t stream) {
  stream->submit([=] { std::memcpy(to, from, n); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new emulation::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->is_recording = true;
  stream->recorded.nodes.clear();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->is_recording = false;
  *graph = new emulation::Graph(std::move(stream->recorded));
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new emulation::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& node : graph->nodes) node();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
