// Norms, rope, gated units and the like; contracts in ops/ops.h.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// Whether this library holds kernels that the current device can run.
bool has_code_for_device();

void embed(const ops::Context&, const ops::Matrix& table, std::span<const int32_t> tokens, float scale, float* out);
void norm(const ops::Context&, ops::NormKind kind, const float* x, int64_t x_stride, float* out, int64_t out_stride,
          int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps, const ops::Matrix* next);
void norm_add(const ops::Context&, ops::NormKind kind, float* y, float* x, float scale, int64_t n_rows, int64_t dim,
              const float* weight, const float* bias, float eps);
void rope(const ops::Context&, const ops::RopeArgs&, float* x, int64_t x_stride, int64_t n_tokens, int n_heads,
          int head_dim, const int32_t* positions);
void glu(const ops::Context&, ops::Activation act, const float* gate, int64_t gate_stride, const float* up,
         int64_t up_stride, float* out, int64_t out_stride, int64_t n_tokens, int64_t n);
// glu() of experts: see ops::ExpertUnit.
void limited_glu(const ops::Context&, ops::Activation act, const float* gate, const float* up, float limit, float shift,
                 float* out, int64_t n);
void add(const ops::Context&, float* x, const float* y, float scale, int64_t n_tokens, int64_t n);
void softcap(const ops::Context&, float* x, int64_t n, float cap);
void pick_rows(const ops::Context&, const float* x, int64_t n, std::span<const int32_t> rows, float* out);

}  // namespace halfbyte::cuda
