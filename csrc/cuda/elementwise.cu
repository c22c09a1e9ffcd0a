// Norms, rope, gated units, residual adds and soft caps.
#include <algorithm>
#include <cmath>

#include "cuda/elementwise.h"
#include "cuda/operands.cuh"
#include "cuda/rows.cuh"
#include "ops/activation.h"

namespace halfbyte::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWideRow = 1024;  // threads that share a long row

unsigned blocks_for(int64_t n) {
  return static_cast<unsigned>((n + kThreads - 1) / kThreads);
}

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// A row: norm(x) is written to out, or a multiple of it added to sum.
struct NormJob {
  Norm norm;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride, n_rows;
  float* sum;
  float scale;
  Operands rounded;  // takes the row as well; without codes: not wanted
};

template <int kWide>
__global__ void __launch_bounds__(kWide > kWarp ? kWide : kThreads) norm_rows(const NormJob job) {
  __shared__ float shared[kWide / kWarp];
  const int64_t row = thread_index() / kWide;
  if (row >= job.n_rows) return;
  float* out = job.sum != nullptr ? job.sum + row * job.norm.dim : job.out + row * job.out_stride;
  const bool is_rounded = job.rounded.codes != nullptr;
  norm_row<kWide>(job.norm, job.x + row * job.x_stride, static_cast<int>(threadIdx.x) % kWide, shared,
                  is_rounded ? 32 * job.rounded.n_tiles : job.norm.dim, [&](int i, float value) {
                    if (i < job.norm.dim) out[i] = job.sum != nullptr ? fmaf(job.scale, value, out[i]) : value;
                    if (is_rounded) round_tile(job.rounded, static_cast<int>(row), i / 32, i % 32, value);
                  });
}

__global__ void rotate(const Rotation rotation, float* x, int64_t x_stride, int64_t n_tokens, int n_heads, int head_dim,
                       const int32_t* positions) {
  const int64_t index = thread_index(), head = index / rotation.half, token = head / n_heads;
  if (token < n_tokens)
    rotation.rotate(x + token * x_stride + head % n_heads * head_dim, static_cast<int>(index % rotation.half),
                    positions[token]);
}

__global__ void gate(ops::Activation act, const float* x, int64_t x_stride, const float* up, int64_t up_stride,
                     float* out, int64_t out_stride, int64_t n_tokens, int64_t n) {
  const int64_t index = thread_index(), token = index / n, i = index % n;
  if (token < n_tokens)
    out[token * out_stride + i] = ops::activate(act, x[token * x_stride + i]) * up[token * up_stride + i];
}

__global__ void gate_limited(ops::Activation act, const float* x, const float* up, float limit, float shift, float* out,
                             int64_t n) {
  const int64_t i = thread_index();
  if (i >= n) return;
  const float g = limit > 0 ? fminf(x[i], limit) : x[i];
  const float u = limit > 0 ? fminf(fmaxf(up[i], -limit), limit) : up[i];
  out[i] = ops::activate(act, g) * (u + shift);
}

__global__ void add_scaled(float* x, const float* y, float scale, int64_t n) {
  const int64_t i = thread_index();
  if (i < n) x[i] = fmaf(scale, y[i], x[i]);
}

__global__ void cap(float* x, int64_t n, float most) {
  const int64_t i = thread_index();
  if (i < n) x[i] = most * tanhf(x[i] / most);
}

__global__ void pick(const float* x, int64_t n, const int32_t* rows, int64_t n_picked, float* out) {
  const int64_t index = thread_index();
  if (index < n_picked * n) out[index] = x[rows[index / n] * n + index % n];
}

}  // namespace

bool has_code_for_device() {
  cudaFuncAttributes attributes;
  const bool has_code = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(cap)) == cudaSuccess;
  (void)cudaGetLastError();
  return has_code;
}

// The table stays in host memory: a step needs a few rows of it.
void embed(const ops::Context& context, const ops::Matrix& table, std::span<const int32_t> tokens, float scale,
           float* out) {
  if (tokens.empty()) return;
  Session& session = session_of(context);
  const size_t n_numbers = tokens.size() * static_cast<size_t>(table.n_cols);
  float* rows = session.stage_rows(n_numbers);
  context.pool->parallel_for(static_cast<int64_t>(tokens.size()), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = rows + i * table.n_cols;
      table.format->decode(table.data + tokens[static_cast<size_t>(i)] * table.format->row_bytes(table.n_cols), row,
                           table.n_cols / table.format->block_weights);
      for (int64_t c = 0; c < table.n_cols; ++c) row[c] *= scale;
    }
  });
  session.send_rows(out, n_numbers);
}

namespace {

void run_norm(cudaStream_t stream, const NormJob& job) {
  if (job.norm.dim <= 512)
    launch(stream, dim3(blocks_for(job.n_rows * kWarp)), dim3(kThreads), 0, norm_rows<kWarp>, job);
  else
    launch(stream, dim3(static_cast<unsigned>(job.n_rows)), dim3(kWideRow), 0, norm_rows<kWideRow>, job);
}

}  // namespace

void norm(const ops::Context& context, ops::NormKind kind, const float* x, int64_t x_stride, float* out,
          int64_t out_stride, int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps,
          const ops::Matrix* next) {
  if (n_rows == 0) return;
  Session& session = session_of(context);
  const Norm norm = {kind == ops::NormKind::layer, static_cast<int>(dim), weight, bias, eps};
  NormJob job = {norm, x, x_stride, out, out_stride, n_rows, nullptr, 1.0f, {}};
  if (out_stride == dim) job.rounded = session.prepare(next, out, n_rows, dim);
  run_norm(session.stream(), job);
}

void norm_add(const ops::Context& context, ops::NormKind kind, float* y, float* x, float scale, int64_t n_rows,
              int64_t dim, const float* weight, const float* bias, float eps) {
  if (n_rows == 0) return;
  const Norm norm = {kind == ops::NormKind::layer, static_cast<int>(dim), weight, bias, eps};
  run_norm(session_of(context).stream(), {norm, y, dim, nullptr, 0, n_rows, x, scale, {}});
}

void rope(const ops::Context& context, const ops::RopeArgs& args, float* x, int64_t x_stride, int64_t n_tokens,
          int n_heads, int head_dim, const int32_t* positions) {
  const Rotation rotation(args);
  if (n_tokens == 0 || rotation.half == 0) return;
  Session& session = session_of(context);
  launch(session.stream(), dim3(blocks_for(n_tokens * n_heads * rotation.half)), dim3(kThreads), 0, rotate, rotation, x,
         x_stride, n_tokens, n_heads, head_dim, session.positions(positions, n_tokens));
}

void glu(const ops::Context& context, ops::Activation act, const float* gate_rows, int64_t gate_stride, const float* up,
         int64_t up_stride, float* out, int64_t out_stride, int64_t n_tokens, int64_t n) {
  if (n_tokens * n == 0) return;
  launch(session_of(context).stream(), dim3(blocks_for(n_tokens * n)), dim3(kThreads), 0, gate, act, gate_rows,
         gate_stride, up, up_stride, out, out_stride, n_tokens, n);
}

void limited_glu(const ops::Context& context, ops::Activation act, const float* gate_rows, const float* up, float limit,
                 float shift, float* out, int64_t n) {
  if (n == 0) return;
  launch(session_of(context).stream(), dim3(blocks_for(n)), dim3(kThreads), 0, gate_limited, act, gate_rows, up, limit,
         shift, out, n);
}

void add(const ops::Context& context, float* x, const float* y, float scale, int64_t n_tokens, int64_t n) {
  if (n_tokens * n == 0) return;
  launch(session_of(context).stream(), dim3(blocks_for(n_tokens * n)), dim3(kThreads), 0, add_scaled, x, y, scale,
         n_tokens * n);
}

void softcap(const ops::Context& context, float* x, int64_t n, float most) {
  if (n == 0) return;
  launch(session_of(context).stream(), dim3(blocks_for(n)), dim3(kThreads), 0, cap, x, n, most);
}

void pick_rows(const ops::Context& context, const float* x, int64_t n, std::span<const int32_t> rows, float* out) {
  if (rows.empty()) return;
  Session& session = session_of(context);
  const auto n_picked = static_cast<int64_t>(rows.size());
  launch(session.stream(), dim3(blocks_for(n_picked * n)), dim3(kThreads), 0, pick, x, n, session.rows(rows), n_picked,
         out);
}

}  // namespace halfbyte::cuda
