// Looks the devices up, allocates and copies.
#include "cuda/device.h"

#include <array>
#include <utility>

#include "cuda/elementwise.h"

namespace halfbyte::cuda {

namespace {

constexpr int kLeastCapability = 75;

// Why this build cannot use a device; empty: it can.
std::string look_at(int number, Device& d) {
  cudaDeviceProp p;
  const cudaError_t asked = cudaGetDeviceProperties(&p, number);
  if (asked != cudaSuccess) {
    (void)cudaGetLastError();
    return std::string("the GPU does not tell its properties: ") + cudaGetErrorString(asked);
  }
  d = {number, p.name, 10 * p.major + p.minor, static_cast<int64_t>(p.totalGlobalMem)};
  if (d.capability < kLeastCapability)
    return format_string("%s has compute capability %d.%d; 7.5 or later is needed", p.name, p.major, p.minor);
  if (cudaSetDevice(number) != cudaSuccess || !has_code_for_device()) {
    (void)cudaGetLastError();
    return format_string(
        "this build has no code for %s (compute capability %d.%d), or the GPU cannot be entered; build it with "
        "HALFBYTE_CUDA=ON and without HALFBYTE_CUDA_ARCHITECTURES",
        p.name, p.major, p.minor);
  }
  return {};
}

Found find_devices() {
  Found out;
  int count = 0, driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    out.problem = "no NVIDIA driver was found";
    return out;
  }
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver / 1000 < runtime / 1000) {
    out.problem = format_string("the NVIDIA driver supports CUDA %d.%d, this build needs %d.%d or later", driver / 1000,
                                driver % 1000 / 10, runtime / 1000, 0);
    return out;
  }
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    out.problem = status != cudaSuccess ? std::string("the driver answers: ") + cudaGetErrorString(status)
                                        : "the driver knows no GPU (CUDA_VISIBLE_DEVICES may hide it)";
    (void)cudaGetLastError();
    return out;
  }
  for (int number = 0; number < count && out.devices.size() < kMostDevices; ++number) {
    Device d;
    const std::string problem = look_at(number, d);
    if (problem.empty())
      out.devices.push_back(d);
    else if (out.problem.empty())
      out.problem = problem;
  }
  if (!out.devices.empty()) out.problem.clear();
  return out;
}

thread_local int index_of_thread = 0;

double mebibytes(int64_t n_bytes) {
  return static_cast<double>(n_bytes) / (1 << 20);
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
                      mebibytes(static_cast<int64_t>(n_bytes)), mebibytes(available()),
                      mebibytes(current_device().total_bytes)),
        "Put fewer layers on the GPU (-ngl N, n_gpu_layers), keep experts off it (--cpu-moe, cpu_moe), take less of it "
        "(--gpu-memory-utilization) where others use it too, or choose a smaller context (-c, n_ctx), batch (-b, "
        "n_batch) or KV type (--kv-type q8_0, kv_type).");
  }
  check(status, "allocating memory");
  return Buffer(static_cast<std::byte*>(p), n_bytes, [](std::byte* data) { (void)cudaFree(data); });
}

// Copies run on the default stream, which waits for all others of its device and lets them wait: in order with every
// step.
void copy(void* to, const void* from, size_t n_bytes) {
  if (n_bytes == 0) return;
  const std::lock_guard lock(device_mutex());
  check(cudaMemcpy(to, from, n_bytes, cudaMemcpyDefault), "copying");
}

template <int kIndex>
ops::Memory make_memory() {
  static const std::string name = kIndex == 0 ? "GPU" : format_string("GPU %d", kIndex);
  constexpr auto kCopy = [](void* to, const void* from, size_t n_bytes) {
    use_device(kIndex);
    copy(to, from, n_bytes);
  };
  return {
      .name = name.c_str(),
      .is_host = false,
      .allocate =
          [](size_t n_bytes, const char* what) {
            use_device(kIndex);
            return allocate(n_bytes, what);
          },
      .upload = kCopy,
      .download = kCopy,
      .copy = kCopy,
      .available =
          [] {
            use_device(kIndex);
            return available();
          },
      .total =
          [] {
            use_device(kIndex);
            return current_device().total_bytes;
          },
  };
}

template <int... kIndexes>
std::array<ops::Memory, sizeof...(kIndexes)> make_memories(std::integer_sequence<int, kIndexes...>) {
  return {make_memory<kIndexes>()...};
}

}  // namespace

const Found& found() {
  static const Found f = find_devices();
  return f;
}

void use_device(int index) {
  index_of_thread = index;
  (void)cudaSetDevice(found().devices[static_cast<size_t>(index)].number);  // a failure is the next call's to tell
}

int current_index() {
  return index_of_thread;
}

const Device& current_device() {
  return found().devices[static_cast<size_t>(index_of_thread)];
}

std::recursive_mutex& device_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

const ops::Memory& memory_of(int index) {
  static const auto memories = make_memories(std::make_integer_sequence<int, kMostDevices>());
  return memories[static_cast<size_t>(index)];
}

const ops::Memory& device_memory() {
  return memory_of(index_of_thread);
}

bool packed_kind(const formats::Format& format, Kind& kind) {
  if (!kind_of(format, kind)) return false;
  if (kind == Kind::bf16 && current_device().capability < 80) kind = Kind::f32;
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

}  // namespace halfbyte::cuda
