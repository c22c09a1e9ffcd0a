// Looks the device up, allocates and copies.
#include "cuda/device.h"

#include <algorithm>

#include "cuda/elementwise.h"

namespace halfbyte::cuda {

namespace {

constexpr size_t kStagingBytes = size_t{16} << 20;
constexpr int kLeastCapability = 75;

Device find_device() {
  Device d;
  int count = 0, driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    d.problem = "no NVIDIA driver was found";
    return d;
  }
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver / 1000 < runtime / 1000) {
    d.problem = format_string("the NVIDIA driver supports CUDA %d.%d, this build needs %d.%d or later", driver / 1000,
                              driver % 1000 / 10, runtime / 1000, 0);
    return d;
  }
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    d.problem = status != cudaSuccess ? std::string("the driver answers: ") + cudaGetErrorString(status)
                                      : "the driver knows no GPU (CUDA_VISIBLE_DEVICES may hide it)";
    (void)cudaGetLastError();
    return d;
  }
  cudaDeviceProp p;
  const cudaError_t asked = cudaGetDeviceProperties(&p, 0);
  if (asked != cudaSuccess) {
    d.problem = std::string("the GPU does not tell its properties: ") + cudaGetErrorString(asked);
    (void)cudaGetLastError();
    return d;
  }
  if (10 * p.major + p.minor < kLeastCapability) {
    d.problem = format_string("%s has compute capability %d.%d; 7.5 or later is needed", p.name, p.major, p.minor);
    return d;
  }
  if (!has_code_for_device()) {
    d.problem = format_string(
        "this build has no code for %s (compute capability %d.%d), or the GPU cannot be entered; build it with "
        "HALFBYTE_CUDA=ON and without HALFBYTE_CUDA_ARCHITECTURES",
        p.name, p.major, p.minor);
    return d;
  }
  d.name = p.name;
  d.capability = 10 * p.major + p.minor;
  d.total_bytes = static_cast<int64_t>(p.totalGlobalMem);
  d.n_processors = p.multiProcessorCount;
  return d;
}

int64_t available() {
  size_t free_bytes = 0, total = 0;
  check(cudaMemGetInfo(&free_bytes, &total), "asking for free memory");
  return static_cast<int64_t>(free_bytes);
}

Buffer allocate(size_t n_bytes, const char* what) {
  if (n_bytes == 0) return {};
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, n_bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(
        ErrorKind::out_of_memory,
        format_string("%s needs %.1f MiB of GPU memory; %.1f MiB of %.1f MiB are free.", what,
                      static_cast<double>(n_bytes) / (1 << 20), static_cast<double>(available()) / (1 << 20),
                      static_cast<double>(device().total_bytes) / (1 << 20)),
        "Put fewer layers on the GPU (-ngl N, n_gpu_layers), or choose a smaller context (-c, n_ctx), batch (-b) "
        "or KV type (--kv-type q8_0).");
  }
  check(status, "allocating memory");
  return Buffer(static_cast<std::byte*>(p), n_bytes, [](std::byte* data) { (void)cudaFree(data); });
}

// Copies run on the default stream, which waits for all others and lets all others wait: in order with every step.
void copy(void* to, const void* from, size_t n_bytes) {
  if (n_bytes == 0) return;
  const std::lock_guard lock(device_mutex());
  check(cudaMemcpy(to, from, n_bytes, cudaMemcpyDefault), "copying");
}

}  // namespace

const Device& device() {
  static const Device d = find_device();
  return d;
}

std::recursive_mutex& device_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

const ops::Memory& device_memory() {
  static const ops::Memory memory = {"GPU", false, allocate, copy, copy, copy, available};
  return memory;
}

bool packed_kind(const formats::Format& format, Kind& kind) {
  if (!kind_of(format, kind)) return false;
  if (kind == Kind::bf16 && device().capability < 80) kind = Kind::f32;
  return true;
}

Buffer allocate_pinned(size_t n_bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMallocHost(&p, n_bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(ErrorKind::out_of_memory,
                format_string("The GPU's copies need %.1f MiB of the computer's memory, which could not be locked.",
                              static_cast<double>(n_bytes) / (1 << 20)),
                "Free memory, allow more locked memory (ulimit -l), or use the CPU with -ngl 0.");
  }
  check(status, "allocating pinned memory");
  return Buffer(static_cast<std::byte*>(p), n_bytes, [](std::byte* data) { (void)cudaFreeHost(data); });
}

Uploader::Uploader(int64_t least_bytes) : n_bytes_(std::max(kStagingBytes, static_cast<size_t>(least_bytes))) {
  for (int i = 0; i < 2; ++i) {
    buffers_[i] = allocate_pinned(n_bytes_);
    check(cudaStreamCreate(&streams_[i]), "creating a stream");
  }
}

Uploader::~Uploader() {
  for (const cudaStream_t stream : streams_) {
    if (stream == nullptr) continue;
    (void)cudaStreamSynchronize(stream);
    (void)cudaStreamDestroy(stream);
  }
}

std::byte* Uploader::next_buffer() {
  current_ = 1 - current_;
  check(cudaStreamSynchronize(streams_[current_]), "uploading weights");
  return buffers_[current_].data();
}

void Uploader::send(std::byte* to, size_t n_bytes) {
  check(cudaMemcpyAsync(to, buffers_[current_].data(), n_bytes, cudaMemcpyHostToDevice, streams_[current_]),
        "uploading weights");
}

void Uploader::finish() {
  for (const cudaStream_t stream : streams_) check(cudaStreamSynchronize(stream), "uploading weights");
}

}  // namespace halfbyte::cuda
