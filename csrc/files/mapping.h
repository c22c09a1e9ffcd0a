// A file mapped into memory for reading.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace halfbyte::files {

// Read-only, shared with the page cache. Throws Error(io) when the file cannot be opened, Error(format) when it is
// empty.
class Mapping {
 public:
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::span<const std::byte> bytes() const { return {data_, n_bytes_}; }

  // Lets go of the pages of `part` (they are read again when touched). Only advice.
  void release_pages(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  size_t n_bytes_ = 0;
};

}  // namespace halfbyte::files
