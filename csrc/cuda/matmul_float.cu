// Matrix products of float weights: f16 and bf16 on the tensor cores, f32 with f32 arithmetic.
#include "cuda/matmul.cuh"

namespace halfbyte::cuda {

template void multiply<Kind::f16>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::bf16>(const Job&, int, bool, cudaStream_t);

namespace {

constexpr int kTokens = 8, kWarps = 8;

// A warp a row: lanes take every 32nd column, then add up pairwise.
__global__ void multiply_f32(const Job job) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int first_token = static_cast<int>(blockIdx.x) * kTokens, tokens_end = job.x.n_tokens, expert = 0;
  if (job.tiles != nullptr) {
    const ExpertTile tile = job.tiles[blockIdx.x];
    if (tile.expert < 0) return;
    first_token = tile.first_group * kTokens;
    tokens_end = tile.end;
    expert = tile.expert;
  }
  int row = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp, index = 0;
  while (index < job.n_parts - 1 && row >= 32 * job.parts[index].pair_end) ++index;
  const Part& part = job.parts[index];
  if (index > 0) row -= 32 * job.parts[index - 1].pair_end;
  if (row >= part.n_rows) return;
  const float* weights =
      reinterpret_cast<const float*>(part.weight + expert * job.matrix_bytes) + static_cast<int64_t>(row) * job.n_cols;
  const int n_tokens = tokens_end - first_token < kTokens ? tokens_end - first_token : kTokens;
  const auto slot = [&](int t) -> int64_t {
    return job.slots != nullptr ? job.slots[first_token + t] : first_token + t;
  };
  float sums[kTokens] = {};
  for (int c = lane; c < job.n_cols; c += kWarp) {
    const float w = weights[c];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t < n_tokens) sums[t] = fmaf(w, job.rows[slot(t) / job.slots_per_row * job.row_stride + c], sums[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int mask = 16; mask > 0; mask /= 2) sums[t] += shuffle_xor(sums[t], mask);
    if (lane != 0 || t >= n_tokens) continue;
    const float biased =
        part.bias != nullptr ? sums[t] + part.bias[static_cast<int64_t>(expert) * part.n_rows + row] : sums[t];
    const float value = part.scale * ops::activate(part.activation, biased);
    float& out = part.out[slot(t) * part.out_stride + row];
    out = part.accumulate ? out + value : value;
  }
}

}  // namespace

template <>
void multiply<Kind::f32>(const Job& job, int, bool, cudaStream_t stream) {
  const int n_rows = 32 * job.parts[job.n_parts - 1].pair_end;
  const int n_blocks = job.tiles != nullptr ? job.n_tiles : job.x.n_groups();
  launch(stream, dim3(static_cast<unsigned>(n_blocks), static_cast<unsigned>(n_rows / kWarps)), dim3(kWarps * kWarp), 0,
         multiply_f32, job);
}

}  // namespace halfbyte::cuda
