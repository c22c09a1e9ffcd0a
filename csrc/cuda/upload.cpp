// Sends buffers, waits for them.
#include "cuda/upload.h"

#include <algorithm>

#include "cuda/device.h"

namespace halfbyte::cuda {

Uploader& Uploader::current() {
  // Never destroyed: when the program ends, the driver may be gone before it.
  static auto* const uploaders = new Uploader[kMostDevices];
  return uploaders[current_index()];
}

std::byte* Uploader::next_buffer(size_t least_bytes) {
  at_ = (at_ + 1) % kLanes;
  Lane& lane = lanes_[at_];
  // Other copies (Memory::upload) would wait for ordinary streams.
  if (lane.stream == nullptr)
    check(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), "creating a stream");
  check(cudaStreamSynchronize(lane.stream), "uploading weights");
  if (lane.buffer.size() < least_bytes) {
    lane.buffer = {};
    lane.buffer = allocate_pinned(std::max(kBufferBytes, least_bytes));
  }
  return lane.buffer.data();
}

void Uploader::send(std::byte* to, size_t n_bytes) {
  const Lane& lane = lanes_[at_];
  check(cudaMemcpyAsync(to, lane.buffer.data(), n_bytes, cudaMemcpyHostToDevice, lane.stream), "uploading weights");
}

void Uploader::finish() {
  cudaError_t worst = cudaSuccess;
  for (Lane& lane : lanes_) {
    if (lane.stream == nullptr) continue;
    const cudaError_t status = cudaStreamSynchronize(lane.stream);
    if (status != cudaSuccess) worst = status;
    (void)cudaStreamDestroy(lane.stream);
    lane.stream = nullptr;
    lane.buffer = {};
  }
  check(worst, "uploading weights");
}

}  // namespace halfbyte::cuda
