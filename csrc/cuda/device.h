// The device: what it is, its memory, and streaming uploads to it.
#pragma once

#include <mutex>
#include <string>

#include "cuda/kinds.h"
#include "cuda/platform.h"
#include "ops/memory.h"

namespace halfbyte::cuda {

struct Device {
  std::string name;         // empty: there is none that can be used
  std::string problem;      // then: why
  int capability = 0;       // 10 * major + minor
  int64_t total_bytes = 0;  // of memory
  int n_processors = 0;
};

// The first device, looked up once.
const Device& device();

const ops::Memory& device_memory();

// Held while a step is recorded, and by everything that must not happen meanwhile.
std::recursive_mutex& device_mutex();

// kind_of() for this device: matrices in bf16 become f32 where the tensor cores do not know bf16.
bool packed_kind(const formats::Format& format, Kind& kind);

// Memory of the computer that copies take straight from.
Buffer allocate_pinned(size_t n_bytes);

// Two pinned buffers: one is filled while the other is on its way.
class Uploader {
 public:
  explicit Uploader(int64_t least_bytes);
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  size_t buffer_bytes() const { return n_bytes_; }
  std::byte* next_buffer();  // free to be written
  void send(std::byte* to, size_t n_bytes);
  void finish();  // returns when everything has arrived

 private:
  size_t n_bytes_;
  Buffer buffers_[2];
  cudaStream_t streams_[2] = {};
  int current_ = 0;
};

}  // namespace halfbyte::cuda
