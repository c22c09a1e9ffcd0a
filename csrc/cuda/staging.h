// What the host gives a stream from step to step, through pinned memory and without waiting.
#pragma once

#include "base/buffer.h"
#include "cuda/platform.h"

namespace halfbyte::cuda {

// Two buffers in turn: one is written while the other's copy may still be on its way.
class Staging {
 public:
  Staging() = default;
  ~Staging();  // nothing may be on its way any more
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // The next buffer, free to be written; and the copy of its first bytes, in the stream's order.
  std::byte* next_buffer(size_t n_bytes);
  void send(std::byte* to, size_t n_bytes, cudaStream_t stream);

 private:
  struct Lane {
    Buffer buffer;
    cudaEvent_t has_left = nullptr;
  };
  static constexpr int kLanes = 2;

  Lane lanes_[kLanes];
  int at_ = 0;
};

}  // namespace halfbyte::cuda
