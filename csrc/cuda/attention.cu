// Attention on the tensor cores with an online softmax.
//
// Prompt rows: four warps, 16 pairs each, walk over all positions together, sharing the keys and values that they bring
// into shared memory. Decoding: one warp takes the heads of one row over a chunk of kChunk positions, and a second
// kernel merges the chunks in a fixed order.
#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/attention.h"
#include "cuda/heads.h"
#include "cuda/operands.cuh"

namespace halfbyte::cuda {

namespace {

constexpr int kNarrowDim = 256;  // of heads that one warp takes whole
// Of merge(): threads that take a dim each, and how many such groups share the chunks.
constexpr int kMergeDims = 128, kMergeParts = 4;
// Of the chunks' partial results that wait for it: rows are taken in turns where there would be more.
constexpr int64_t kMostPartialBytes = int64_t{64} << 20;

template <int kDim, int kTokens, int kWarps, bool kDecode>
__global__ void __launch_bounds__(kWarps * 32) attend(const AttentionJob job) {
  constexpr int kKeyRow = kTokens + 8, kValueRow = kDim + 8;
  auto* keys = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* values = keys + kDim * kKeyRow;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int g = lane / 4, t = lane % 4, kv_head = static_cast<int>(blockIdx.y);
  Work work;
  int decode_row = 0;
  if (!find_work<kDecode>(job, kPairs * kWarps, lane, work, decode_row)) return;
  const auto [begin, end] = positions_of<kDecode>(job, work, kPairs * kWarps);
  if (begin >= end) return;  // nothing to see here: merge() knows

  Pairs pairs(job, work, work.first + kPairs * warp, kv_head, g);
  const float* const queries[2] = {pairs.query(job, 0), pairs.query(job, 1)};
  const float factor = query_factor(job);
  uint32_t q[kDim / 16][4];
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) q[d][i] = query_pair(queries[i % 2], 16 * d + 8 * (i / 2) + 2 * t, job.key_dim, factor);
  }

  const KvView kv = view_of(job, *work.span, kv_head);
  float sums[kDim / 8][4] = {};
  for (int first = begin / kTokens * kTokens; first < end; first += kTokens) {
    __syncthreads();  // everyone is done with the last tile
    load_keys<kDim, kTokens>(kv, first, end, thread, kWarps * 32, keys);
    load_values<kDim, kTokens>(kv, first, end, thread, kWarps * 32, values);
    wait_for_copies();
    __syncthreads();

    float scores[kTokens / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kTokens / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, keys + (16 * d + lane % 16) * kKeyRow + 16 * n + lane / 16 * 8);
        mma_half(scores[2 * n], q[d], b[0], b[1]);
        mma_half(scores[2 * n + 1], q[d], b[2], b[3]);
      }
    }
    pairs.weigh(job, first, end, t, scores, sums);
#pragma unroll
    for (int n = 0; n < kTokens / 16; ++n) {
      const uint32_t weights[4] = {
          two_halves(scores[2 * n][0], scores[2 * n][1]),
          two_halves(scores[2 * n][2], scores[2 * n][3]),
          two_halves(scores[2 * n + 1][0], scores[2 * n + 1][1]),
          two_halves(scores[2 * n + 1][2], scores[2 * n + 1][3]),
      };
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, values + (16 * n + lane % 16) * kValueRow + 16 * d + lane / 16 * 8);
        mma_half(sums[2 * d], weights, b[0], b[1]);
        mma_half(sums[2 * d + 1], weights, b[2], b[3]);
      }
    }
  }
  pairs.write<kDecode>(job, decode_row, 0, t, sums);
}

// A block a (row, head): every kMergeParts-th chunk by one group of threads, then the groups' sums in order. All warps
// find out the same weights.
__global__ void __launch_bounds__(kMergeDims* kMergeParts) merge(const AttentionJob job) {
  __shared__ float sums[kMergeParts][kMergeDims];
  const int head = static_cast<int>(blockIdx.y), row = job.first_decode_row + static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, part = thread / kMergeDims;
  const Span& span = span_of_row(job, row, lane);
  const int in_span = row_in_span(span, row), out_row = span.first_row + in_span;
  const int64_t position = span.first_position + in_span;
  const int first = static_cast<int>(first_visible(job, position) / kChunk), last = static_cast<int>(position / kChunk);
  const float* partial = partial_of(job, row, head, 0);
  const int64_t stride = job.value_dim + 2;
  const float sink = job.sinks != nullptr ? job.sinks[head] * kLog2E : -INFINITY;
  float highest = sink;
  for (int chunk = first + lane; chunk <= last; chunk += kWarp) highest = fmaxf(highest, partial[chunk * stride]);
  for (int mask = 16; mask > 0; mask /= 2) highest = fmaxf(highest, shuffle_xor(highest, mask));
  float total = 0.0f;
  for (int chunk = first + lane; chunk <= last; chunk += kWarp)
    total += partial[chunk * stride + 1] * exp2f(partial[chunk * stride] - highest);
  for (int mask = 16; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
  total += exp2f(sink - highest);
  float* out = job.out + out_row * job.out_stride + static_cast<int64_t>(head) * job.value_dim;
  for (int first_dim = 0; first_dim < job.value_dim; first_dim += kMergeDims) {
    const int at = thread % kMergeDims, d = first_dim + at;
    float sum = 0.0f;
    if (d < job.value_dim) {
#pragma unroll 8
      for (int chunk = first + part; chunk <= last; chunk += kMergeParts)
        sum = fmaf(partial[chunk * stride + 2 + d], exp2f(partial[chunk * stride] - highest), sum);
    }
    sums[part][at] = sum;
    __syncthreads();
    if (part == 0 && d < job.value_dim) {
      for (int other = 1; other < kMergeParts; ++other) sum += sums[other][at];
      out[d] = sum / total;
      // Whole warps are here: heads that are rounded are whole groups of 32 dims.
      if (job.rounded.codes != nullptr)
        round_tile(job.rounded, out_row, (head * job.value_dim + d) / kWarp, lane, sum / total);
    }
    __syncthreads();
  }
  if (job.rounded.codes == nullptr || head != job.n_heads - 1) return;
  for (int tile = job.n_heads * job.value_dim / kWarp + thread / kWarp; tile < job.rounded.n_tiles;
       tile += kMergeDims * kMergeParts / kWarp)
    round_tile(job.rounded, out_row, tile, lane, 0.0f);
}

int64_t partial_row_bytes(int n_heads, int value_dim, int64_t n_chunks) {
  return n_heads * n_chunks * (value_dim + 2) * static_cast<int64_t>(sizeof(float));
}

// A kernel for prompts or for decoding rows; n_blocks: of a kv head and chunk.
using Attend = void (*)(const AttentionJob& job, bool is_decode, int n_blocks, int n_kv_heads, cudaStream_t stream);

template <int kDim, int kTokens>
void attend_narrow(const AttentionJob& job, bool is_decode, int n_blocks, int n_kv_heads, cudaStream_t stream) {
  constexpr size_t kShared = 2 * (kDim * (kTokens + 8) + kTokens * (kDim + 8));
  static_assert(kShared <= 48 << 10, "what every device gives without asking");
  const dim3 grid(static_cast<unsigned>(n_blocks), static_cast<unsigned>(n_kv_heads),
                  is_decode ? static_cast<unsigned>(job.n_chunks) : 1);
  if (is_decode)
    launch(stream, grid, dim3(kWarp), kShared, attend<kDim, kTokens, 1, true>, job);
  else
    launch(stream, grid, dim3(4 * kWarp), kShared, attend<kDim, kTokens, 4, false>, job);
}

}  // namespace

int64_t partial_bytes(int64_t n_rows, int n_heads, int value_dim, int64_t n_chunks) {
  const int64_t row_bytes = partial_row_bytes(n_heads, value_dim, n_chunks);
  return std::min(n_rows * row_bytes, std::max(kMostPartialBytes, row_bytes));
}

void attention(const ops::Context& context, const ops::AttentionArgs& args) {
  Session& session = session_of(context);
  const ops::KvLayout& layout = args.layout;
  check_heads(layout);
  AttentionJob job = {};
  job.query = args.query;
  job.query_stride = args.query_stride;
  job.out = args.out;
  job.out_stride = args.out_stride;
  job.kv = reinterpret_cast<const uint8_t*>(args.kv);
  job.block_bytes = layout.stride();
  job.head_bytes = layout.head_bytes();
  job.key_tile_bytes = static_cast<int>(layout.key_tile_bytes());
  job.key_dim = layout.key_dim;
  job.value_dim = layout.value_dim;
  job.k_type = layout.k_type;
  job.v_type = layout.v_type;
  job.n_heads = args.n_heads;
  job.group = args.n_heads / layout.n_kv_heads;
  job.scale = args.scale;
  job.softcap = args.softcap;
  job.window = args.window;
  job.sinks = args.sinks;
  job.spans = session.spans(args.spans);
  job.n_spans = static_cast<int>(args.spans.size());
  job.n_chunks = session.n_chunks(args.spans);
  const int dim = std::max(layout.key_dim, layout.value_dim);
  const bool is_wide = dim > kNarrowDim;
  const int prompt_pairs = is_wide ? kPairs : 4 * kPairs;  // of a block
  int64_t n_prompt_blocks = 0, n_decode_rows = 0;
  for (const ops::AttentionSpan& span : args.spans) {
    if (span.role == ops::Role::decode)
      n_decode_rows += span.n_rows;
    else
      n_prompt_blocks += (span.n_rows * job.group + prompt_pairs - 1) / prompt_pairs;
  }
  int64_t rows_at_once = 1;
  if (n_decode_rows > 0) {
    const int64_t row_bytes = partial_row_bytes(args.n_heads, layout.value_dim, job.n_chunks);
    rows_at_once = std::clamp<int64_t>(kMostPartialBytes / row_bytes, 1, n_decode_rows);
    job.partial = reinterpret_cast<float*>(session.scratch(Session::Purpose::partial, rows_at_once * row_bytes));
  }
  const int64_t n_values = int64_t{args.n_heads} * layout.value_dim;
  if (n_prompt_blocks == 0 && layout.value_dim % kWarp == 0 && args.out_stride == n_values)
    job.rounded = session.prepare(args.next, args.out, n_decode_rows, n_values);
  const Attend attend_all = is_wide      ? attend_wide
                            : dim <= 64  ? attend_narrow<64, 64>
                            : dim <= 128 ? attend_narrow<128, 64>
                                         : attend_narrow<kNarrowDim, 32>;
  const cudaStream_t stream = session.stream();
  if (n_prompt_blocks > 0) attend_all(job, false, static_cast<int>(n_prompt_blocks), layout.n_kv_heads, stream);
  const int blocks_per_row = (job.group + kPairs - 1) / kPairs;
  for (int64_t first = 0; first < n_decode_rows; first += rows_at_once) {
    const auto n_rows = static_cast<int>(std::min(rows_at_once, n_decode_rows - first));
    job.first_decode_row = static_cast<int>(first);
    attend_all(job, true, n_rows * blocks_per_row, layout.n_kv_heads, stream);
    launch(stream, dim3(static_cast<unsigned>(n_rows), static_cast<unsigned>(job.n_heads)),
           dim3(kMergeDims * kMergeParts), 0, merge, job);
  }
}

}  // namespace halfbyte::cuda
