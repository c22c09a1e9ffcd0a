// Writes GGUF v3. The file appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "files/tensor_source.h"

namespace halfbyte::files {

// A tensor to write; `bytes` must match shape and format. Its bytes may be produced late: `fill` is called once, when
// the tensor's turn comes, and must return exactly n_bytes() bytes that live until the next call.
struct TensorToWrite {
  std::string name;
  const formats::Format* format = nullptr;
  std::vector<int64_t> shape;  // GGUF order: contiguous axis first
  std::function<std::span<const std::byte>()> fill;

  int64_t n_bytes() const;
};

// Writes metadata and tensors to `path` (beside it first, then renamed). Throws Error(io | invalid_argument).
void write_gguf(const std::string& path, const Metadata& metadata, const std::vector<TensorToWrite>& tensors);

}  // namespace halfbyte::files
