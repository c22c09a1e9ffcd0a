// What tests ask the emulated device.
#include <cuda_runtime.h>

// Bytes that were copied from the device so far.
extern "C" __attribute__((visibility("default"))) int64_t bytes_downloaded() {
  return emulation::bytes_downloaded;
}
