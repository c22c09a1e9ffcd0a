// Queries, keys and values between the projections and attention; contracts in ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace halfbyte::cuda {

// The most dimensions that a head's keys and values may have: latent attention's. Throws Error(unsupported) above.
inline constexpr int kMostKeyDim = 576, kMostValueDim = 512;
void check_heads(const ops::KvLayout& layout);

void store_heads(const ops::Context&, const ops::HeadArgs&);
void store_kv(const ops::Context&, const ops::KvLayout&, std::byte* kv, const float* k, int64_t k_stride,
              const float* v, int64_t v_stride, int64_t n_tokens, const int64_t* slots);

}  // namespace halfbyte::cuda
