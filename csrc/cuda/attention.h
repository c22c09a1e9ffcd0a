// Attention over block tables: what a launch is told.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void attention(const ops::Context&, const ops::AttentionArgs&);
void store_kv(const ops::Context&, const ops::KvLayout&, std::byte* kv, const float* k, int64_t k_stride,
              const float* v, int64_t v_stride, int64_t n_tokens, const int64_t* slots);

}  // namespace halfbyte::cuda
