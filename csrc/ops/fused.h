// Ops that a backend may have in one kernel, made of their parts where it has not.
#pragma once

#include "ops/ops.h"

namespace halfbyte::ops {

// See Ops::norm_add.
void norm_add(const Ops&, const Context&, NormKind kind, float* y, float* x, float scale, int64_t n_rows, int64_t dim,
              const float* weight, const float* bias, float eps);

// See Ops::store_heads.
void store_heads(const Ops&, const Context&, const HeadArgs&);

}  // namespace halfbyte::ops
