// The most likely tokens of rows of logits; contract in ops/ops.h.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void likely(const ops::Context&, const float* logits, int64_t n_rows, int64_t n_vocab, int n_likely, ops::Likely* out);

// What a call keeps between its rounds, at most.
int64_t likely_bytes(int64_t n_rows, int64_t n_vocab);

}  // namespace halfbyte::cuda
