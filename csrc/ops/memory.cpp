// The host's memory.
#include "ops/memory.h"

#include <cstdio>
#include <cstring>

namespace halfbyte::ops {

namespace {

void copy_bytes(void* to, const void* from, size_t n_bytes) {
  std::memcpy(to, from, n_bytes);
}

// Bytes that can still be used without swapping, or a guess of 4 GiB where the system does not say.
int64_t available_bytes() {
  int64_t kilobytes = int64_t{4} << 20;
  if (std::FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      long long value = 0;
      if (std::sscanf(line, "MemAvailable: %lld kB", &value) == 1) kilobytes = value;
    }
    std::fclose(file);
  }
  return kilobytes * 1024;
}

}  // namespace

const Memory& host_memory() {
  static const Memory memory = {
      .name = "host",
      .is_host = true,
      .allocate = [](size_t n_bytes, const char* what) { return Buffer(n_bytes, what); },
      .upload = copy_bytes,
      .download = copy_bytes,
      .copy = copy_bytes,
      .available = available_bytes,
      .total = nullptr,
  };
  return memory;
}

}  // namespace halfbyte::ops
