// The reference backend's ops: plain f32 C++ that defines what an op means. Only raw matrices.
#pragma once

#include "ops/ops.h"

namespace halfbyte::ops::reference {

Matrix pack(const MatrixSource& source, bool keep_raw, ThreadPool& pool);
void embed(const Context&, const Matrix& table, std::span<const int32_t> tokens, float scale, float* out);
void linear(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs,
            std::span<const Projection> projections);
void linear_glu(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs, const Matrix& gate,
                const float* gate_bias, const Matrix& up, const float* up_bias, Activation act, float* out,
                int64_t out_stride, const Matrix*);
void route(const Context&, const Routing&, const float* logits, int64_t n_tokens, int32_t* experts, float* weights);
void expert_glu(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs, const ExpertUnit& unit,
                const Chosen& chosen, float* out);
void expert_sum(const Context&, const float* hidden, std::span<const RowRun> runs, const Matrix& down,
                const float* bias, const Chosen& chosen, float scale, bool accumulate, float* out, int64_t out_stride);
void norm(const Context&, NormKind kind, const float* x, int64_t x_stride, float* out, int64_t out_stride,
          int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps, const Matrix*);
void rope(const Context&, const RopeArgs&, float* x, int64_t x_stride, int64_t n_tokens, int n_heads, int head_dim,
          const int32_t* positions);
void store_kv(const Context&, const KvLayout&, std::byte* kv, const float* k, int64_t k_stride, const float* v,
              int64_t v_stride, int64_t n_tokens, const int64_t* slots);
void attention(const Context&, const AttentionArgs&);
void pick_rows(const Context&, const float* x, int64_t n, std::span<const int32_t> rows, float* out);
void glu(const Context&, Activation act, const float* gate, int64_t gate_stride, const float* up, int64_t up_stride,
         float* out, int64_t out_stride, int64_t n_tokens, int64_t n);
void add(const Context&, float* x, const float* y, float scale, int64_t n_tokens, int64_t n);
void softcap(const Context&, float* x, int64_t n, float cap);
void mix(const Context&, const Mix&, int64_t n_tokens, int64_t n);
void match_size(const Context&, float* x, int64_t x_stride, const float* like, int64_t like_stride, int64_t n_tokens,
                int64_t n, float floor);
void cut(const Context&, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations);
void likely(const Context&, const float* logits, int64_t n_rows, int64_t n_vocab, int n_likely, Likely* out);

}  // namespace halfbyte::ops::reference
