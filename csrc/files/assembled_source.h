// A model put together from tensors that are made when they are asked for: what a folder of another format becomes.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "files/tensor_source.h"

namespace halfbyte::files {

// Bytes and what keeps them alive.
struct HeldBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

// A tensor to come: make() is called when it is first found, and again after its pages were released.
struct LateTensor {
  TensorView view;  // `bytes` empty
  std::function<HeldBytes()> make;
};

// A view's bytes are there once find() has returned it, until release_pages().
class AssembledSource : public TensorSource {
 public:
  // `path` is used in messages. Throws Error(invalid_argument) for a shape that its format cannot have.
  AssembledSource(std::string path, Metadata metadata, std::vector<LateTensor> tensors);

  const Metadata& metadata() const override { return metadata_; }
  std::span<const TensorView> tensors() const override { return views_; }
  const TensorView* find(std::string_view name) const override;
  std::string path() const override { return path_; }
  void release_pages(const TensorView& tensor) const override;
  void release_vocabulary() override { metadata_.erase_vocabulary(); }

 private:
  std::string path_;
  Metadata metadata_;
  std::vector<std::function<HeldBytes()>> makers_;
  std::unordered_map<std::string, size_t> by_name_;
  mutable std::mutex mutex_;
  mutable std::vector<TensorView> views_;
  mutable std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace halfbyte::files
