// The devices: what they are, their memory, and streaming uploads to them.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "cuda/kinds.h"
#include "cuda/platform.h"
#include "ops/memory.h"

namespace halfbyte::cuda {

struct Device {
  int number = 0;  // as the runtime counts
  std::string name;
  int capability = 0;       // 10 * major + minor
  int64_t total_bytes = 0;  // of memory
};

// Those that can be used, looked up once, kMostDevices at most; none: problem says why.
struct Found {
  std::vector<Device> devices;
  std::string problem;
};
const Found& found();
inline constexpr int kMostDevices = 8;

// What this thread does from now on, it does on found().devices[index]. Every entry to the backend says so first.
void use_device(int index);
int current_index();
const Device& current_device();

// Memory of a device, and of the current one.
const ops::Memory& memory_of(int index);
const ops::Memory& device_memory();

// Held while a step is recorded, and by everything that must not happen meanwhile.
std::recursive_mutex& device_mutex();

// kind_of() for the current device: matrices in bf16 become f32 where the tensor cores do not know bf16.
bool packed_kind(const formats::Format& format, Kind& kind);

// Memory of the computer that copies take straight from.
Buffer allocate_pinned(size_t n_bytes);

}  // namespace halfbyte::cuda
