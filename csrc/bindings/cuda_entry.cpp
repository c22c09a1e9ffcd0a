// The door to the CUDA backend: a library beside this one, opened when a GPU is asked for, absent from CPU wheels.
#include <dlfcn.h>
#include <pybind11/stl.h>

#include <filesystem>
#include <mutex>

#include "base/error.h"
#include "bindings/bind.h"
#include "cuda/cuda.h"

namespace halfbyte::bindings {

namespace {

constexpr const char* kLibrary = "libhalfbyte_cuda.so";

std::filesystem::path own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&device_ops), &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

// What was opened, and why not.
struct Opened {
  const cuda::DeviceFacts* facts = nullptr;
  std::string problem;
};

Opened open_library(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return {nullptr, "this build has no GPU backend (install with the environment variable HALFBYTE_CUDA=ON and nvcc)"};
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {nullptr, std::string("the GPU backend cannot be opened: ") + dlerror()};
  const auto entry = reinterpret_cast<cuda::Entry>(dlsym(library, "halfbyte_cuda"));
  const cuda::DeviceFacts* facts = entry != nullptr ? entry(cuda::kInterface) : nullptr;
  if (facts == nullptr) return {nullptr, path.string() + " belongs to another version"};
  return {facts, facts->problem};
}

// Opened once, unless a test opens another.
std::mutex opened_mutex;
std::optional<Opened> opened;

Opened device() {
  const std::lock_guard lock(opened_mutex);
  if (!opened) opened = open_library(own_folder() / kLibrary);
  return *opened;
}

}  // namespace

const ops::Ops* device_ops() {
  const Opened d = device();
  return d.facts != nullptr ? d.facts->ops : nullptr;
}

std::string device_problem() {
  return device().problem;
}

void open_device_library(const std::string& path) {
  Opened other = open_library(path.empty() ? own_folder() / kLibrary : std::filesystem::path(path));
  const std::lock_guard lock(opened_mutex);
  opened = std::move(other);
}

void register_cuda(py::module_& m) {
  m.def(
      "gpu_info",
      [] {
        const Opened d = device();
        py::dict out;
        const bool is_used = d.facts != nullptr && d.facts->ops != nullptr;
        out["used"] = is_used;
        out["problem"] = d.problem;
        out["name"] = is_used ? d.facts->name : "";
        out["capability"] = is_used ? format_string("%d.%d", d.facts->capability / 10, d.facts->capability % 10) : "";
        out["memory_bytes"] = is_used ? d.facts->memory_bytes : 0;
        out["memory_available_bytes"] = is_used ? d.facts->ops->memory->available() : 0;
        return out;
      },
      "The GPU: whether models may use it, else the problem; name, compute capability, bytes of memory.");
}

}  // namespace halfbyte::bindings
