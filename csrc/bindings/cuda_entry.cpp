// The door to the CUDA backend: a library beside this one, opened when a GPU is asked for, absent from CPU wheels.
#include <dlfcn.h>
#include <pybind11/stl.h>

#include <filesystem>
#include <mutex>
#include <optional>
#include <span>

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
  std::span<const cuda::DeviceFacts> devices;
  std::string problem;
};

Opened open_library(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return {{}, "this build has no GPU backend (install with the environment variable HALFBYTE_CUDA=ON and nvcc)"};
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {{}, std::string("the GPU backend cannot be opened: ") + dlerror()};
  const auto entry = reinterpret_cast<cuda::Entry>(dlsym(library, "halfbyte_cuda"));
  const cuda::Devices* devices = entry != nullptr ? entry(cuda::kInterface) : nullptr;
  if (devices == nullptr) return {{}, path.string() + " belongs to another version"};
  return {std::span(devices->each, static_cast<size_t>(devices->n)), devices->problem};
}

// Opened once, unless a test opens another.
std::mutex opened_mutex;
std::optional<Opened> opened;

Opened device() {
  const std::lock_guard lock(opened_mutex);
  if (!opened) opened = open_library(own_folder() / kLibrary);
  return *opened;
}

py::dict facts_to_python(const cuda::DeviceFacts& facts) {
  const bool is_there = facts.ops != nullptr;
  py::dict out;
  out["name"] = is_there ? facts.name : "";
  out["capability"] = is_there ? format_string("%d.%d", facts.capability / 10, facts.capability % 10) : "";
  out["memory_bytes"] = facts.memory_bytes;
  out["memory_available_bytes"] = is_there ? facts.ops->memory->available() : 0;
  return out;
}

}  // namespace

std::vector<const ops::Ops*> device_ops() {
  std::vector<const ops::Ops*> all;
  for (const cuda::DeviceFacts& d : device().devices) all.push_back(d.ops);
  return all;
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
        py::dict out = facts_to_python(d.devices.empty() ? cuda::DeviceFacts() : d.devices.front());
        py::list others;
        for (size_t i = 1; i < d.devices.size(); ++i) others.append(facts_to_python(d.devices[i]));
        out["used"] = !d.devices.empty();
        out["problem"] = d.problem;
        out["others"] = others;
        return out;
      },
      "The GPU: whether models may use it, else the problem; name, compute capability, bytes of memory. others: the "
      "same of further GPUs.");
}

}  // namespace halfbyte::bindings
