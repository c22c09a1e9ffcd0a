// Attention over block tables: what a launch is told.
#pragma once

#include "cuda/session.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

void attention(const ops::Context&, const ops::AttentionArgs&);

}  // namespace halfbyte::cuda
