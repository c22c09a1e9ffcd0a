// Norms, rope, gated units, residual adds and soft caps.
#include <algorithm>
#include <cmath>

#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "ops/activation.h"

namespace halfbyte::cuda {

namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t n) {
  return static_cast<unsigned>((n + kThreads - 1) / kThreads);
}

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// The sum over kWide threads (a warp, or the block) of one number each, in a fixed order.
template <int kWide>
__device__ inline float sum_over(float x, float* shared) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  if constexpr (kWide > kWarp) {
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    x = 0.0f;
    for (int i = 0; i < kWide / kWarp; ++i) x += shared[i];
  }
  return x;
}

struct NormJob {
  bool is_layer;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride, n_rows;
  int dim;
  const float* weight;
  const float* bias;
  float eps;
};

template <int kWide>
__global__ void norm_rows(const NormJob job) {
  __shared__ float shared[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x) % kWide;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWide) + threadIdx.x / kWide;
  if (row >= job.n_rows) return;
  const float* x = job.x + row * job.x_stride;
  float* out = job.out + row * job.out_stride;
  float mean = 0.0f, squares = 0.0f;
  if (job.is_layer) {
    for (int i = thread; i < job.dim; i += kWide) mean += x[i];
    mean = sum_over<kWide>(mean, shared) / static_cast<float>(job.dim);
  }
  for (int i = thread; i < job.dim; i += kWide) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  squares = sum_over<kWide>(squares, shared) / static_cast<float>(job.dim);
  const float scale = 1.0f / sqrtf(squares + job.eps);
  for (int i = thread; i < job.dim; i += kWide) {
    const float value = (x[i] - mean) * scale * (job.weight != nullptr ? job.weight[i] : 1.0f);
    out[i] = job.bias != nullptr ? value + job.bias[i] : value;
  }
}

struct RopeJob {
  bool is_adjacent;
  int half;
  const float* inv_freq;
  float magnitude;
  float* x;
  int64_t x_stride;
  int n_tokens, n_heads, head_dim;
  const int32_t* positions;
};

__global__ void rotate(const RopeJob job) {
  const int64_t index = thread_index();
  const int pair = static_cast<int>(index % job.half);
  const int head = static_cast<int>(index / job.half % job.n_heads);
  const auto token = static_cast<int>(index / job.half / job.n_heads);
  if (token >= job.n_tokens) return;
  const float angle = static_cast<float>(job.positions[token]) * job.inv_freq[pair];
  const float c = cosf(angle) * job.magnitude, s = sinf(angle) * job.magnitude;
  float* x = job.x + token * job.x_stride + static_cast<int64_t>(head) * job.head_dim;
  const int first = job.is_adjacent ? 2 * pair : pair, second = job.is_adjacent ? first + 1 : pair + job.half;
  const float a = x[first], b = x[second];
  x[first] = a * c - b * s;
  x[second] = a * s + b * c;
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
  std::vector<float> rows(tokens.size() * static_cast<size_t>(table.n_cols));
  context.pool->parallel_for(static_cast<int64_t>(tokens.size()), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = rows.data() + i * table.n_cols;
      table.format->decode(table.data + tokens[static_cast<size_t>(i)] * table.format->row_bytes(table.n_cols), row,
                           table.n_cols / table.format->block_weights);
      for (int64_t c = 0; c < table.n_cols; ++c) row[c] *= scale;
    }
  });
  device_memory().upload(out, rows.data(), rows.size() * sizeof(float));
}

void norm(const ops::Context& context, ops::NormKind kind, const float* x, int64_t x_stride, float* out,
          int64_t out_stride, int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps) {
  if (n_rows == 0) return;
  const NormJob job = {kind == ops::NormKind::layer, x,      x_stride, out, out_stride, n_rows,
                       static_cast<int>(dim),        weight, bias,     eps};
  const cudaStream_t stream = session_of(context).stream();
  if (dim <= 512) {
    const int64_t per_block = kThreads / kWarp;
    launch(stream, dim3(static_cast<unsigned>((n_rows + per_block - 1) / per_block)), dim3(kThreads), 0,
           norm_rows<kWarp>, job);
  } else {
    launch(stream, dim3(static_cast<unsigned>(n_rows)), dim3(kThreads), 0, norm_rows<kThreads>, job);
  }
}

void rope(const ops::Context& context, const ops::RopeArgs& args, float* x, int64_t x_stride, int64_t n_tokens,
          int n_heads, int head_dim, const int32_t* positions) {
  if (args.kind == ops::RopeKind::none || n_tokens == 0 || args.rope_dim < 2) return;
  Session& session = session_of(context);
  const RopeJob job = {args.kind == ops::RopeKind::adjacent,
                       args.rope_dim / 2,
                       args.inv_freq,
                       args.magnitude,
                       x,
                       x_stride,
                       static_cast<int>(n_tokens),
                       n_heads,
                       head_dim,
                       session.positions(positions, n_tokens)};
  launch(session.stream(), dim3(blocks_for(n_tokens * n_heads * job.half)), dim3(kThreads), 0, rotate, job);
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
