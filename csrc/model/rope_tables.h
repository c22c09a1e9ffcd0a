// Inverse frequencies of rope for one layer's numbers.
#pragma once

#include <vector>

#include "model/weights.h"

namespace halfbyte::model {

struct RopeTable {
  std::vector<float> inv_freq;  // (rope_dim / 2)
  float magnitude = 1.0f;
  bool operator==(const RopeTable&) const = default;
};

// theta^(-2i/dim), scaled as the config says: linear and YaRN (Peng et al. 2023, arXiv 2309.00071), factor tensors of
// Llama 3 and LongRoPE (the long ones when n_ctx exceeds the original context).
RopeTable rope_table(const Weights& weights, const LayerConfig& layer, int64_t n_ctx);

}  // namespace halfbyte::model
