// Matrix products: which kernels run for a call; contracts in ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace halfbyte::cuda {

void linear(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
            std::span<const ops::Projection> projections);
void linear_glu(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::Matrix& gate, const float* gate_bias, const ops::Matrix& up, const float* up_bias,
                ops::Activation act, float* out, int64_t out_stride, const ops::Matrix* next);

void expert_glu(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::ExpertUnit& unit, const ops::Chosen& chosen, float* out);
void expert_sum(const ops::Context&, const float* hidden, std::span<const ops::RowRun> runs, const ops::Matrix& down,
                const float* bias, const ops::Chosen& chosen, float scale, bool accumulate, float* out,
                int64_t out_stride);

}  // namespace halfbyte::cuda
