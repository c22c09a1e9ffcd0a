// The CPU backend's inside: a level's kernels and the ops written over them.
#pragma once

#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "ops/ops.h"

namespace halfbyte::cpu {

// What Context::scratch points to: the level that the context was made for, and its memory.
struct Backend {
  const Kernels& kernels;
  mutable Scratch memory;

  Scratch& scratch(const ops::Context&) const { return memory; }
};

inline const Backend& backend_of(const ops::Context& context) {
  return *static_cast<const Backend*>(context.scratch);
}

// Ops over kernels; contracts in ops/ops.h.
void linear(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
            std::span<const ops::Projection> projections);
void linear_glu(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::Matrix& gate, const float* gate_bias, const ops::Matrix& up, const float* up_bias,
                ops::Activation act, float* out, int64_t out_stride, const ops::Matrix*);
void expert_glu(const ops::Context&, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::ExpertUnit& unit, const ops::Chosen& chosen, float* out);
void expert_sum(const ops::Context&, const float* hidden, std::span<const ops::RowRun> runs, const ops::Matrix& down,
                const float* bias, const ops::Chosen& chosen, float scale, bool accumulate, float* out,
                int64_t out_stride);
void embed(const ops::Context&, const ops::Matrix& table, std::span<const int32_t> tokens, float scale, float* out);
void norm(const ops::Context&, ops::NormKind kind, const float* x, int64_t x_stride, float* out, int64_t out_stride,
          int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps, const ops::Matrix*);
void rope(const ops::Context&, const ops::RopeArgs&, float* x, int64_t x_stride, int64_t n_tokens, int n_heads,
          int head_dim, const int32_t* positions);
void store_kv(const ops::Context&, const ops::KvLayout&, std::byte* kv, const float* k, int64_t k_stride,
              const float* v, int64_t v_stride, int64_t n_tokens, const int64_t* slots);
void attention(const ops::Context&, const ops::AttentionArgs&);
void glu(const ops::Context&, ops::Activation act, const float* gate, int64_t gate_stride, const float* up,
         int64_t up_stride, float* out, int64_t out_stride, int64_t n_tokens, int64_t n);
void add(const ops::Context&, float* x, const float* y, float scale, int64_t n_tokens, int64_t n);
void mix(const ops::Context&, const ops::Mix&, int64_t n_tokens, int64_t n);
void match_size(const ops::Context&, float* x, int64_t x_stride, const float* like, int64_t like_stride,
                int64_t n_tokens, int64_t n, float floor);
void cut(const ops::Context&, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations);
void softcap(const ops::Context&, float* x, int64_t n, float cap);

}  // namespace halfbyte::cpu
