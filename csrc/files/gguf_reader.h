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

// A GGUF file, or all parts of a split one, as a TensorSource.
class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const std::string& path);
  ~GgufSource() override;

  const Metadata& metadata() const override;
  std::span<const TensorView> tensors() const override;
  const TensorView* find(std::string_view name) const override;
  std::string path() const override;
  void release_pages(const TensorView& tensor) const override;

  uint32_t version() const;
  uint64_t alignment() const;
  const std::vector<std::string>& paths() const;
  // Offset of a tensor's bytes in its file.
  uint64_t file_offset(const TensorView& tensor) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::files
