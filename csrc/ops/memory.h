// Where a backend's operands lie, and how bytes get there and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"

namespace halfbyte::ops {

// Every copy comes after the ops that were called before it, and before those that are called after it.
struct Memory {
  const char* name = nullptr;  // "host", or a device's name
  bool is_host = false;        // the program may read and write it directly

  // Throws Error(out_of_memory) that says how much was asked, how much is free, and which option to change.
  Buffer (*allocate)(size_t n_bytes, const char* what) = nullptr;
  void (*upload)(void* to, const void* from_host, size_t n_bytes) = nullptr;
  void (*download)(void* to_host, const void* from, size_t n_bytes) = nullptr;
  void (*copy)(void* to, const void* from, size_t n_bytes) = nullptr;  // ranges do not overlap
  int64_t (*available)() = nullptr;                                    // bytes that could still be allocated
  int64_t (*total)() = nullptr;                                        // of a device: bytes that it has
};

const Memory& host_memory();

}  // namespace halfbyte::ops
