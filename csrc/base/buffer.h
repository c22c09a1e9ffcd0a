// Owned, aligned memory for weights, caches and activations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace halfbyte {

// Uninitialized bytes aligned to 64 (a cache line and a vector); 2 MiB and larger ones ask for huge pages.
// Throws Error(out_of_memory) naming the size and `what` it was for.
class Buffer {
 public:
  using Release = void (*)(std::byte* data);

  Buffer() = default;
  Buffer(size_t n_bytes, const char* what);
  // Takes over memory that something else allocated (a device's, or pinned); `release` gives it back.
  Buffer(std::byte* data, size_t n_bytes, Release release) : data_(data), n_bytes_(n_bytes), release_(release) {}
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        n_bytes_(std::exchange(other.n_bytes_, 0)),
        release_(other.release_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(n_bytes_, other.n_bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return n_bytes_; }

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t n_bytes_ = 0;
  Release release_ = nullptr;  // nullptr: from the heap
};

// Gives memory that was freed back to the system, where the C library keeps it (glibc).
void return_freed_memory();

}  // namespace halfbyte
