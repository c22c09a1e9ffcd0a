// Sends a buffer, and remembers when it has left.
#include "cuda/staging.h"

#include <algorithm>
#include <bit>

#include "cuda/device.h"

namespace halfbyte::cuda {

namespace {

constexpr size_t kLeastBytes = size_t{1} << 16;

}  // namespace

Staging::~Staging() {
  for (const Lane& lane : lanes_) {
    if (lane.has_left != nullptr) (void)cudaEventDestroy(lane.has_left);
  }
}

std::byte* Staging::next_buffer(size_t n_bytes) {
  at_ = (at_ + 1) % kLanes;
  Lane& lane = lanes_[at_];
  if (lane.has_left == nullptr)
    check(cudaEventCreateWithFlags(&lane.has_left, cudaEventDisableTiming), "creating an event");
  check(cudaEventSynchronize(lane.has_left), "uploading a step's inputs");
  if (lane.buffer.size() < n_bytes) {
    lane.buffer = {};
    lane.buffer = allocate_pinned(std::max(kLeastBytes, std::bit_ceil(n_bytes)));
  }
  return lane.buffer.data();
}

void Staging::send(std::byte* to, size_t n_bytes, cudaStream_t stream) {
  const Lane& lane = lanes_[at_];
  check(cudaMemcpyAsync(to, lane.buffer.data(), n_bytes, cudaMemcpyHostToDevice, stream), "uploading a step's inputs");
  check(cudaEventRecord(lane.has_left, stream), "uploading a step's inputs");
}

}  // namespace halfbyte::cuda
