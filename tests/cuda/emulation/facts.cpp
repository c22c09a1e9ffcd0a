// What tests ask the emulated device.
#include <cuda_runtime.h>

// Bytes that were copied from the device so far.
extern "C" __attribute__((visibility("default"))) int64_t bytes_downloaded() {
  return emulation::bytes_downloaded;
}

// Kernels that ran so far, replayed ones too.
extern "C" __attribute__((visibility("default"))) int64_t launches() {
  return emulation::n_launches;
}

// Allocations of device memory so far.
extern "C" __attribute__((visibility("default"))) int64_t allocations() {
  return emulation::n_allocations;
}

// Recorded steps that are kept now.
extern "C" __attribute__((visibility("default"))) int64_t graphs() {
  return emulation::n_graphs;
}

// Bytes of all devices that are allocated now.
extern "C" __attribute__((visibility("default"))) int64_t bytes_taken() {
  int64_t n_bytes = 0;
  for (const emulation::Device& d : emulation::devices()) {
    for (const auto& [offset, size] : d.taken) n_bytes += static_cast<int64_t>(size);
  }
  return n_bytes;
}
