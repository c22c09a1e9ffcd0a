// Attention over block tables; contract in ops/ops.h.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void attention(const ops::Context&, const ops::AttentionArgs&);

// What a call with up to n_rows decoding rows keeps between its kernels.
int64_t partial_bytes(int64_t n_rows, int n_heads, int value_dim, int64_t n_chunks);

}  // namespace halfbyte::cuda
