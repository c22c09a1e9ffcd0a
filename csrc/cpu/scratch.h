// Memory that ops reuse from call to call, one per Context.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "cpu/kernels.h"

namespace halfbyte::cpu {

// A buffer that only grows. Contents are lost when it does.
class Growing {
 public:
  template <class T>
  T* at_least(int64_t n) {
    const auto bytes = static_cast<size_t>(n) * sizeof(T);
    if (buffer_.size() < bytes) buffer_ = Buffer(bytes + bytes / 4, "Scratch memory of a step");
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

// Cosines and sines of one rope at the batch's positions; layers with the same rope share them.
struct RopeCache {
  const float* inv_freq = nullptr;
  int rope_dim = 0;
  float magnitude = 0.0f;
  std::vector<int32_t> positions;
  std::vector<float> cosines, sines;  // (n_tokens, rope_dim / 2)
};

struct Scratch {
  explicit Scratch(int n_workers) : workers(static_cast<size_t>(n_workers)) {}

  struct Worker {
    Growing workspace;  // an unpacked panel
    Growing out;        // (n_tokens, 16) of a panel, twice for gated units
    Growing row;        // a decoded row
    Growing columns;    // unpacked columns of outliers
  };
  std::vector<Worker> workers;
  Growing codes, scales, sums, outliers;  // quantized activations
  Growing outlier_columns, outlier_tokens, known_columns;
  Growing pieces;                       // and once more for a matrix unit
  std::vector<QuantizedRow> quantized;  // rows into them
  std::vector<const float*> row_pointers;
  std::vector<QuantizedRow> sorted_quantized;  // both again, by expert
  std::vector<const float*> sorted_pointers;
  std::vector<RopeCache> ropes;
  Growing partial;  // attention: per segment maxima, totals and sums
};

}  // namespace halfbyte::cpu
