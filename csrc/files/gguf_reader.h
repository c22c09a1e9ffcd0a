// Reads GGUF v2 and v3 from bytes. Nothing in a file is trusted: see the limits at the top of gguf_reader.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "files/tensor_source.h"

namespace halfbyte::files {

// One parsed GGUF file; tensor views point into `bytes`.
struct GgufContents {
  uint32_t version = 0;
  uint64_t alignment = 32;
  uint64_t data_offset = 0;  // where tensor data starts
  Metadata metadata;
  std::vector<TensorView> tensors;
};

// `name` is used in messages. Throws Error(format | unsupported).
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name);

}  // namespace halfbyte::files
