// Weights on their way to a device.
#pragma once

#include <mutex>

#include "base/buffer.h"
#include "cuda/platform.h"

namespace halfbyte::cuda {

// Pinned buffers in turn, each with a stream of its own: one is filled while the others are on their way. They are kept
// from matrix to matrix, since locking memory takes longer than filling it.
class Uploader {
 public:
  // Of the current device.
  static Uploader& current();

  // Held by whoever fills and sends buffers.
  std::mutex& mutex() { return mutex_; }

  static constexpr size_t kBufferBytes = size_t{16} << 20;  // or what was asked for, where that is more

  std::byte* next_buffer(size_t least_bytes);  // free to be written
  void send(std::byte* to, size_t n_bytes);    // the first bytes of that buffer; returns at once
  void finish();                               // returns when everything has arrived, without the buffers

 private:
  struct Lane {
    Buffer buffer;
    cudaStream_t stream = nullptr;
  };
  static constexpr int kLanes = 4;

  std::mutex mutex_;
  Lane lanes_[kLanes];
  int at_ = 0;
};

}  // namespace halfbyte::cuda
