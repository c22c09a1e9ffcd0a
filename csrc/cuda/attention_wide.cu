// Attention of heads of more than 256 dims: latent attention's, where all query heads share one row of keys.
//
// Four warps share a tile of 16 pairs and 16 positions: each multiplies a quarter of the keys' dims, adds the four
// quarters up in order, and gathers a quarter of the values' dims. Every warp knows all scores.
#include "cuda/attention.cuh"
#include "cuda/heads.h"

namespace halfbyte::cuda {

namespace {

constexpr int kWarps = 4, kTokens = 16;
constexpr int kKeyRow = kTokens + 8, kValueRow = kMostValueDim + 8;
constexpr int kKeyPart = kMostKeyDim / kWarps, kValuePart = kMostValueDim / kWarps;  // dims of a warp
constexpr size_t kKeyBytes = 2 * kMostKeyDim * kKeyRow, kValueBytes = 2 * kTokens * kValueRow;
constexpr size_t kScoreBytes = 4 * kWarps * kPairs * kTokens;
constexpr size_t kShared = kKeyBytes + kValueBytes + kScoreBytes;
static_assert(kShared <= 48 << 10, "what every device gives without asking");
static_assert(kKeyPart % 16 == 0 && kValuePart % 16 == 0);

template <bool kDecode>
__global__ void __launch_bounds__(kWarps* kWarp, 2) attend_parts(const AttentionJob job) {
  auto* keys = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* values = keys + kKeyBytes / 2;
  auto* parts = reinterpret_cast<float*>(shared_memory() + kKeyBytes + kValueBytes);  // [warp][number of a lane][lane]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int g = lane / 4, t = lane % 4, kv_head = static_cast<int>(blockIdx.y);
  Work work;
  int decode_row = 0;
  if (!find_work<kDecode>(job, kPairs, lane, work, decode_row)) return;
  const auto [begin, end] = positions_of<kDecode>(job, work, kPairs);
  if (begin >= end) return;  // nothing to see here: merge() knows

  Pairs pairs(job, work, work.first, kv_head, g);
  const float* const queries[2] = {pairs.query(job, 0), pairs.query(job, 1)};
  const float factor = query_factor(job);
  const int first_key = kKeyPart * warp, first_value = kValuePart * warp;
  uint32_t q[kKeyPart / 16][4];
#pragma unroll
  for (int d = 0; d < kKeyPart / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      q[d][i] = query_pair(queries[i % 2], first_key + 16 * d + 8 * (i / 2) + 2 * t, job.key_dim, factor);
  }

  const KvView kv = view_of(job, *work.span, kv_head);
  float sums[kValuePart / 8][4] = {};
  for (int first = begin / kTokens * kTokens; first < end; first += kTokens) {
    __syncthreads();  // everyone is done with the last tile
    load_keys<kMostKeyDim, kTokens>(kv, first, end, thread, kWarps * kWarp, keys);
    load_values<kMostValueDim, kTokens>(kv, first, end, thread, kWarps * kWarp, values);
    wait_for_copies();
    __syncthreads();

    float scores[2][4] = {};
#pragma unroll
    for (int d = 0; d < kKeyPart / 16; ++d) {
      uint32_t b[4];
      load_matrices_transposed(b, keys + (first_key + 16 * d + lane % 16) * kKeyRow + lane / 16 * 8);
      mma_half(scores[0], q[d], b[0], b[1]);
      mma_half(scores[1], q[d], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) parts[(warp * 8 + i) * kWarp + lane] = scores[i / 4][i % 4];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float sum = 0.0f;
      for (int w = 0; w < kWarps; ++w) sum += parts[(w * 8 + i) * kWarp + lane];
      scores[i / 4][i % 4] = sum;
    }
    pairs.weigh(job, first, end, t, scores, sums);
    const uint32_t weights[4] = {two_halves(scores[0][0], scores[0][1]), two_halves(scores[0][2], scores[0][3]),
                                 two_halves(scores[1][0], scores[1][1]), two_halves(scores[1][2], scores[1][3])};
#pragma unroll
    for (int d = 0; d < kValuePart / 16; ++d) {
      uint32_t b[4];
      load_matrices_transposed(b, values + lane % 16 * kValueRow + first_value + 16 * d + lane / 16 * 8);
      mma_half(sums[2 * d], weights, b[0], b[1]);
      mma_half(sums[2 * d + 1], weights, b[2], b[3]);
    }
  }
  pairs.write<kDecode>(job, decode_row, first_value, t, sums);
}

}  // namespace

void attend_wide(const AttentionJob& job, bool is_decode, int n_blocks, int n_kv_heads, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(n_blocks), static_cast<unsigned>(n_kv_heads),
                  is_decode ? static_cast<unsigned>(job.n_chunks) : 1);
  launch(stream, grid, dim3(kWarps * kWarp), kShared, is_decode ? attend_parts<true> : attend_parts<false>, job);
}

}  // namespace halfbyte::cuda
