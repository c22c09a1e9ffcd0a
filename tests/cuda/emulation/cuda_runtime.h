// What the CUDA backend uses of the CUDA runtime, on the host: devices with memories of their own, streams whose work
// is done as late as can be, recorded graphs.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
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
inline constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9,
                             cudaErrorInvalidResourceHandle = 400, cudaErrorStreamCaptureUnsupported = 900;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };

namespace emulation {

// EMULATED_DEVICES (1) devices with EMULATED_KIB (a GiB) of memory each. Like a real one's, a memory is out of reach:
// only copies and the device's own kernels see it, and what is written past an allocation is found when that is freed.
struct Device {
  std::byte* memory = nullptr;
  size_t n_bytes = 0;
  std::map<size_t, size_t> taken;  // offset and size of each allocation
  int n_users = 0;

  bool holds(const void* p) const {
    const auto* at = static_cast<const std::byte*>(p);
    return std::greater_equal<>()(at, memory) && std::less<>()(at, memory + n_bytes);
  }
};

inline constexpr size_t kGuardBytes = 256;
inline constexpr int kGuard = 0xa5;

inline size_t number_from(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? static_cast<size_t>(std::atoll(text)) : otherwise;
}

inline std::vector<Device>& devices() {
  static std::vector<Device> all = [] {
    std::vector<Device> made(number_from("EMULATED_DEVICES", 1));
    for (Device& d : made) {
      d.n_bytes = number_from("EMULATED_KIB", 1 << 20) << 10;
      d.memory = static_cast<std::byte*>(
          mmap(nullptr, d.n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
    return made;
  }();
  return all;
}

inline int& current_device() {
  thread_local int current = 0;
  return current;
}

// Opens the memory of a device, or of those that `p` or `q` point into, to this thread and keeps others waiting.
class Access {
 public:
  explicit Access(int device) { open(devices()[static_cast<size_t>(device)]); }
  Access(const void* p, const void* q) {
    for (Device& d : devices()) {
      if (d.holds(p) || d.holds(q)) open(d);
    }
  }
  ~Access() {
    for (Device* d : opened_) {
      if (--d->n_users == 0) mprotect(d->memory, d->n_bytes, PROT_NONE);
    }
  }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

 private:
  void open(Device& d) {
    if (d.n_users++ == 0) mprotect(d.memory, d.n_bytes, PROT_READ | PROT_WRITE);
    opened_.push_back(&d);
  }
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex m;
    return m;
  }
  std::lock_guard<std::recursive_mutex> lock_{mutex()};
  std::vector<Device*> opened_;
};

inline void copy(void* to, const void* from, size_t n) {
  const Access access(to, from);
  std::memcpy(to, from, n);
}

// An entry of a device's memory, nullptr where it is full.
inline std::byte* take(Device& d, size_t n) {
  const size_t needed = (n + 255) / 256 * 256 + kGuardBytes;
  size_t at = 0;
  for (const auto& [offset, size] : d.taken) {
    if (offset - at >= needed) break;
    at = offset + (size + 255) / 256 * 256 + kGuardBytes;
  }
  if (at + needed > d.n_bytes) return nullptr;
  d.taken[at] = n;
  std::memset(d.memory + at, 0xff, n);  // as a device's memory: whatever was there (here: not a number)
  std::memset(d.memory + at + n, kGuard, needed - n);
  return d.memory + at;
}

// What a recorded step takes of its device.
inline constexpr size_t kNodeBytes = 64;
struct Graph {
  std::vector<std::function<void()>> nodes;
  std::byte* taken = nullptr;  // by one that is ready to run
};

// Work waits until somebody waits for it, so that what is read or freed too early is found.
struct Stream {
  int device = current_device();
  bool is_blocking = true;  // cudaMemcpy() waits for it
  bool is_recording = false;
  Graph recorded;
  std::vector<std::function<void()>> waiting;
  size_t n_done = 0, n_given = 0;

  void submit(std::function<void()> work) {
    const std::lock_guard lock(mutex());
    if (is_recording) {
      recorded.nodes.push_back(std::move(work));
    } else {
      waiting.push_back(std::move(work));
      ++n_given;
    }
  }
  void finish(size_t up_to) {
    const std::lock_guard lock(mutex());
    size_t n = 0;
    for (; n < waiting.size() && n_done < up_to; ++n, ++n_done) waiting[n]();
    waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(n));
  }
  void finish() { finish(n_given); }

  static std::recursive_mutex& mutex() {
    static std::recursive_mutex m;
    return m;
  }
  static std::vector<Stream*>& all() {
    static std::vector<Stream*> streams;
    return streams;
  }
  // What the default stream does: others' work comes first.
  static void finish_blocking() {
    const std::lock_guard lock(mutex());
    for (Stream* stream : all()) {
      if (stream->is_blocking) stream->finish();
    }
  }
};
struct Event {
  Stream* stream = nullptr;
  size_t n_given = 0;
};
inline bool is_on_device(const void* p) {
  return std::any_of(devices().begin(), devices().end(), [&](const Device& d) { return d.holds(p); });
}
inline int64_t bytes_downloaded = 0, n_launches = 0, n_allocations = 0, n_graphs = 0;

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
using cudaEvent_t = emulation::Event*;
using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;
struct cudaDeviceProp {
  char name[256];
  int major, minor;
  size_t totalGlobalMem;
};

inline const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "error";
  }
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = static_cast<int>(emulation::devices().size());
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  emulation::current_device() = device;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  *p = {"emulated device", 9, 0, emulation::devices()[static_cast<size_t>(device)].n_bytes};
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
  const emulation::Access access(emulation::current_device());
  *p = emulation::take(emulation::devices()[static_cast<size_t>(emulation::current_device())], n);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  ++emulation::n_allocations;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  emulation::Stream::finish_blocking();
  for (emulation::Device& d : emulation::devices()) {
    if (!d.holds(p)) continue;
    const emulation::Access access(p, p);
    const auto found = d.taken.find(static_cast<size_t>(static_cast<std::byte*>(p) - d.memory));
    const auto* behind = static_cast<const std::byte*>(p) + found->second;
    for (size_t i = 0; i < emulation::kGuardBytes; ++i) {
      if (behind[i] == std::byte{emulation::kGuard}) continue;
      std::fprintf(stderr, "emulation: byte %zu past an allocation of %zu was written\n", i, found->second);
      std::abort();
    }
    d.taken.erase(found);
  }
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
  const emulation::Access access(emulation::current_device());
  const emulation::Device& d = emulation::devices()[static_cast<size_t>(emulation::current_device())];
  *free_bytes = *total = d.n_bytes;
  for (const auto& [offset, size] : d.taken) *free_bytes -= size;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  if (emulation::is_on_device(from) && !emulation::is_on_device(to))
    emulation::bytes_downloaded += static_cast<int64_t>(n);
  emulation::Stream::finish_blocking();
  emulation::copy(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t stream) {
  stream->submit([=] { emulation::copy(to, from, n); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const std::lock_guard lock(emulation::Stream::mutex());
  *stream = emulation::Stream::all().emplace_back(new emulation::Stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  (void)cudaStreamCreate(stream);
  (*stream)->is_blocking = false;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(emulation::Stream::mutex());
  stream->finish();
  std::erase(emulation::Stream::all(), stream);
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->is_recording) return cudaErrorStreamCaptureUnsupported;
  stream->finish();
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new emulation::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream->n_given};
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) event->stream->finish(event->n_given);
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
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
  const emulation::Access access(emulation::current_device());
  emulation::Device& d = emulation::devices()[static_cast<size_t>(emulation::current_device())];
  std::byte* taken = emulation::take(d, graph->nodes.size() * emulation::kNodeBytes);
  if (taken == nullptr) return cudaErrorMemoryAllocation;
  *out = new emulation::Graph{graph->nodes, taken};
  ++emulation::n_graphs;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& node : graph->nodes) stream->submit(node);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  (void)cudaFree(graph->taken);
  --emulation::n_graphs;
  delete graph;
  return cudaSuccess;
}
