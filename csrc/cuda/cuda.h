// The door of the CUDA backend, a library of its own: the core opens it only where it is wanted
// (bindings/cuda_entry.cpp).
#pragma once

#include "ops/ops.h"

namespace halfbyte::cuda {

// Facts about a device that doctor tells.
struct DeviceFacts {
  const char* name = nullptr;
  int capability = 0;  // 10 * major + minor
  int64_t memory_bytes = 0;
  const ops::Ops* ops = nullptr;
};

// The devices that models may use.
struct Devices {
  const char* problem = nullptr;  // why there is none
  int n = 0;
  const DeviceFacts* each = nullptr;
};

// Grows by one whenever ops.h or what it uses changes shape: a library of another build is refused.
inline constexpr int kInterface = 5;

// The library's only exported function, `halfbyte_cuda`.
using Entry = const Devices* (*)(int interface);

}  // namespace halfbyte::cuda
