// Reads safetensors files. Nothing in a file is trusted: see the limits at the top of safetensors_reader.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace halfbyte::files {

// A tensor inside a mapped safetensors file. These files hold types that no block format has (F8_E4M3, I32 of packed
// nibbles), so the type stays a name.
struct SafeTensor {
  std::string name;
  std::string dtype;                 // as the file spells it: "BF16", "I32", "F8_E4M3", ...
  std::vector<int64_t> shape;        // outermost axis first; empty for a single number; an axis may be 0
  std::span<const std::byte> bytes;  // exactly what shape and dtype need; valid while the file is open
};

struct SafetensorsContents {
  std::vector<SafeTensor> tensors;              // in the order of their bytes
  std::map<std::string, std::string> metadata;  // the header's __metadata__
};

// `name` is used in messages. Throws Error(format | unsupported).
SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& name);

// One safetensors file open for reading. Thread-safe.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();

  std::span<const SafeTensor> tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  const SafeTensor* find(std::string_view name) const;  // nullptr when missing
  const std::string& path() const;
  // Tells the system that a tensor's file pages are no longer needed. Only advice.
  void release_pages(const SafeTensor& tensor) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::files
