// Entry of the CPU backend. Included by bindings/cpu_entry.cpp and nothing else.
#pragma once

#include "base/cpu_level.h"
#include "ops/ops.h"

namespace halfbyte::cpu {

// The ops at the level in use (base/cpu_level.h), or at a given supported one. Valid for the life of the process.
const ops::Ops& cpu_ops();
const ops::Ops& cpu_ops(CpuLevel level);

// Operations (a multiply and an add are two) a second of the level's integer dots alone, n_threads together: the bound
// of every quantized matrix product. 0 where the level has none.
double dot_rate(CpuLevel level, int n_threads);

}  // namespace halfbyte::cpu
