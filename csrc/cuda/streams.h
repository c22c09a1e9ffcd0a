// Rows of several streams, rows as large as others, and cut gates; contracts in ops/ops.h.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void mix(const ops::Context&, const ops::Mix&, int64_t n_tokens, int64_t n);
void match_size(const ops::Context&, float* x, int64_t x_stride, const float* like, int64_t like_stride,
                int64_t n_tokens, int64_t n, float floor);
void cut(const ops::Context&, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations);

}  // namespace halfbyte::cuda
