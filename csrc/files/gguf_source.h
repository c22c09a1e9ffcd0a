// A GGUF file, or all parts of a split one, as a TensorSource.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "files/tensor_source.h"

namespace halfbyte::files {

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const std::string& path);
  ~GgufSource() override;

  const Metadata& metadata() const override;
  std::span<const TensorView> tensors() const override;
  const TensorView* find(std::string_view name) const override;
  std::string path() const override;
  void release_pages(const TensorView& tensor) const override;
  void release_vocabulary() override;

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
