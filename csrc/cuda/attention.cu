// Attention on the tensor cores with an online softmax.
//
// A warp takes 16 (row, query head) pairs that share a kv head. Prompt rows: four warps walk over all positions
// together, sharing the keys and values that they bring into shared memory. Decoding: one warp takes the heads of one
// row over a chunk of kChunk positions, and a second kernel merges the chunks in a fixed order. Positions are taken in
// tiles that begin at multiples of the tile, so that a row's result does not depend on the rows beside it.
#include <algorithm>
#include <cmath>

#include "cuda/attention.h"
#include "cuda/heads.h"
#include "cuda/kv_tiles.cuh"
#include "cuda/operands.cuh"

namespace halfbyte::cuda {

namespace {

constexpr int kPairs = 16;  // of a warp
// Of merge(): threads that take a dim each, and how many such groups share the chunks.
constexpr int kMergeDims = 128, kMergeParts = 4;
// Of the chunks' partial results that wait for it: rows are taken in turns where there would be more.
constexpr int64_t kMostPartialBytes = int64_t{64} << 20;
constexpr float kLog2E = 1.44269504088896f;

struct AttentionJob {
  const float* query;
  int64_t query_stride;
  float* out;
  int64_t out_stride;
  const uint8_t* kv;
  int64_t block_bytes, head_bytes;
  int key_tile_bytes, key_dim, value_dim;
  ops::KvType k_type, v_type;
  int n_heads, group;
  float scale, softcap;
  int64_t window;
  const float* sinks;
  const Span* spans;
  int n_spans;
  int n_chunks;    // decoding: of the longest sequence
  float* partial;  // decoding: for each row, head and chunk the highest score, the sum of weights, and value_dim sums
  int first_decode_row;  // of this launch; partial begins with it
  Operands rounded;      // takes the output of decoding rows as well; without codes: not wanted
};

// What one block does: pairs [first, end) of a span's n_rows * group, pair = row * group + head in group.
struct Work {
  const Span* span;
  int first, end;
};

// The span of a decoding row, counted over all spans: every lane of a warp looks at another one.
__device__ inline const Span& span_of_row(const AttentionJob& job, int row, int lane) {
  int n_before = 0;
  for (int first = 0; first < job.n_spans; first += kWarp) {
    const int n = count_bits(ballot(first + lane < job.n_spans && job.spans[first + lane].decode_rows_end <= row));
    n_before += n;
    if (n < kWarp) break;
  }
  return job.spans[n_before];
}

__device__ inline int row_in_span(const Span& span, int row) {
  return row - (span.decode_rows_end - span.n_rows);
}

__device__ inline bool find_prompt_work(const AttentionJob& job, int index, int pairs_per_block, Work& work) {
  for (int i = 0; i < job.n_spans; ++i) {
    const Span& span = job.spans[i];
    if (span.is_decode != 0) continue;
    const int n_blocks = (span.n_rows * job.group + pairs_per_block - 1) / pairs_per_block;
    if (index < n_blocks) {
      work = {&span, index * pairs_per_block, span.n_rows * job.group};
      return true;
    }
    index -= n_blocks;
  }
  return false;
}

__device__ inline int64_t first_visible(const AttentionJob& job, int64_t position) {
  return job.window > 0 && position - job.window + 1 > 0 ? position - job.window + 1 : 0;
}

__device__ inline float* partial_of(const AttentionJob& job, int row, int head, int chunk) {
  const int64_t at = static_cast<int64_t>(row - job.first_decode_row) * job.n_heads + head;
  return job.partial + (at * job.n_chunks + chunk) * (job.value_dim + 2);
}

// Two query values as f16, times a factor; zero past the head.
__device__ inline uint32_t query_pair(const float* head, int d, int dim, float factor) {
  const float low = head != nullptr && d < dim ? head[d] * factor : 0.0f;
  const float high = head != nullptr && d + 1 < dim ? head[d + 1] * factor : 0.0f;
  return bounded_halves(low, high);
}

template <int kDim, int kTokens, int kWarps, bool kDecode>
__global__ void __launch_bounds__(kWarps * 32) attend(const AttentionJob job) {
  constexpr int kKeyRow = kTokens + 8, kValueRow = kDim + 8;
  auto* keys = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* values = keys + kDim * kKeyRow;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int g = lane / 4, t = lane % 4, kv_head = static_cast<int>(blockIdx.y);
  Work work;
  int decode_row = 0;
  if constexpr (kDecode) {
    const int per_row = (job.group + kPairs - 1) / kPairs, index = static_cast<int>(blockIdx.x);
    decode_row = job.first_decode_row + index / per_row;
    const Span& span = span_of_row(job, decode_row, lane);
    const int row = row_in_span(span, decode_row);
    work = {&span, row * job.group + index % per_row * kPairs, (row + 1) * job.group};
  } else if (!find_prompt_work(job, static_cast<int>(blockIdx.x), kPairs * kWarps, work)) {
    return;
  }
  const Span& span = *work.span;

  // The block's positions: from the first row's first to the last row's own.
  const int last_pair = work.first + kPairs * kWarps < work.end ? work.first + kPairs * kWarps - 1 : work.end - 1;
  int64_t begin = first_visible(job, span.first_position + work.first / job.group);
  int64_t end = span.first_position + last_pair / job.group + 1;
  if (kDecode) {
    const int64_t chunk = blockIdx.z;
    if (begin < chunk * kChunk) begin = chunk * kChunk;
    if (end > (chunk + 1) * kChunk) end = (chunk + 1) * kChunk;
    if (begin >= end) return;  // nothing to see here: merge() knows
  }

  // The lane's two pairs: rows g and g + 8 of the warp's 16.
  int heads[2];
  int64_t rows[2], seen_from[2], seen_to[2];  // positions [from, to)
  const float* queries[2];
  for (int r = 0; r < 2; ++r) {
    const int pair = work.first + kPairs * warp + g + 8 * r;
    const bool is_real = pair < work.end;
    const int row = pair / job.group;
    heads[r] = kv_head * job.group + pair % job.group;
    rows[r] = is_real ? span.first_row + row : -1;
    seen_from[r] = first_visible(job, span.first_position + row);
    seen_to[r] = is_real ? span.first_position + row + 1 : 0;
    queries[r] =
        is_real ? job.query + rows[r] * job.query_stride + static_cast<int64_t>(heads[r]) * job.key_dim : nullptr;
  }
  const float factor = job.softcap > 0 ? job.scale : job.scale * kLog2E;
  uint32_t q[kDim / 16][4];
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) q[d][i] = query_pair(queries[i % 2], 16 * d + 8 * (i / 2) + 2 * t, job.key_dim, factor);
  }

  const KvView kv = {job.kv + kv_head * job.head_bytes,
                     job.block_bytes,
                     span.table,
                     job.key_dim,
                     job.value_dim,
                     job.key_tile_bytes,
                     job.k_type,
                     job.v_type};
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  float sums[kDim / 8][4] = {};
  for (int64_t first = begin / kTokens * kTokens; first < end; first += kTokens) {
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
    float now[2] = {highest[0], highest[1]};
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t position = first + 8 * n + 2 * t + e % 2;
        float s = scores[n][e];
        if (job.softcap > 0) s = job.softcap * kLog2E * tanhf(s / job.softcap);
        const bool is_seen = position >= seen_from[e / 2] && position < seen_to[e / 2] && position < end;
        scores[n][e] = is_seen ? s : -INFINITY;
        now[e / 2] = fmaxf(now[e / 2], scores[n][e]);
      }
    }
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], shuffle_xor(now[r], 1));
      now[r] = fmaxf(now[r], shuffle_xor(now[r], 2));
      shift[r] = now[r] == -INFINITY ? 0.0f : now[r];
      const float keep = exp2f(highest[r] - shift[r]);
      highest[r] = now[r];
      total[r] *= keep;
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        sums[d][2 * r] *= keep;
        sums[d][2 * r + 1] *= keep;
      }
    }
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2f(scores[n][e] - shift[e / 2]);
        total[e / 2] += scores[n][e];
      }
    }
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

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += shuffle_xor(total[r], 1);
    total[r] += shuffle_xor(total[r], 2);
    if (rows[r] < 0) continue;
    float scale = 1.0f;
    float* to = nullptr;
    if (kDecode) {
      to = partial_of(job, decode_row, heads[r], static_cast<int>(blockIdx.z));
      if (t == 0) to[0] = highest[r], to[1] = total[r];
      to += 2;
    } else {
      if (job.sinks != nullptr) {
        const float sink = job.sinks[heads[r]] * kLog2E, most = fmaxf(highest[r], sink);
        scale = exp2f(highest[r] - most);
        total[r] = total[r] * scale + exp2f(sink - most);
      }
      scale /= total[r];
      to = job.out + rows[r] * job.out_stride + static_cast<int64_t>(heads[r]) * job.value_dim;
    }
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int at = 8 * d + 2 * t + c;
        if (at < job.value_dim) to[at] = sums[d][2 * r + c] * scale;
      }
    }
  }
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

struct Counts {
  int n_kv_heads, prompt_blocks, decode_rows, rows_at_once;
};

template <int kDim, int kTokens>
void launch_attention(AttentionJob job, const Counts& n, cudaStream_t stream) {
  constexpr size_t kShared = 2 * (kDim * (kTokens + 8) + kTokens * (kDim + 8));
  static_assert(kShared <= 48 << 10, "what every device gives without asking");
  const auto kv_heads = static_cast<unsigned>(n.n_kv_heads), heads = static_cast<unsigned>(job.n_heads);
  if (n.prompt_blocks > 0) {
    launch(stream, dim3(static_cast<unsigned>(n.prompt_blocks), kv_heads), dim3(128), kShared,
           attend<kDim, kTokens, 4, false>, job);
  }
  const int blocks_per_row = (job.group + kPairs - 1) / kPairs;
  for (int first = 0; first < n.decode_rows; first += n.rows_at_once) {
    job.first_decode_row = first;
    const int n_rows = n.decode_rows - first < n.rows_at_once ? n.decode_rows - first : n.rows_at_once;
    launch(stream, dim3(static_cast<unsigned>(n_rows * blocks_per_row), kv_heads, static_cast<unsigned>(job.n_chunks)),
           dim3(kWarp), kShared, attend<kDim, kTokens, 1, true>, job);
    launch(stream, dim3(static_cast<unsigned>(n_rows), heads), dim3(kMergeDims * kMergeParts), 0, merge, job);
  }
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
  job.block_bytes = layout.block_bytes();
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
  Counts n = {layout.n_kv_heads, 0, 0, 1};
  for (const ops::AttentionSpan& span : args.spans) {
    if (span.role == ops::Role::decode)
      n.decode_rows += static_cast<int>(span.n_rows);
    else
      n.prompt_blocks += static_cast<int>((span.n_rows * job.group + 4 * kPairs - 1) / (4 * kPairs));
  }
  if (n.decode_rows > 0) {
    const int64_t row_bytes = partial_row_bytes(args.n_heads, layout.value_dim, job.n_chunks);
    n.rows_at_once = static_cast<int>(std::clamp<int64_t>(kMostPartialBytes / row_bytes, 1, n.decode_rows));
    job.partial = reinterpret_cast<float*>(session.scratch(Session::Purpose::partial, n.rows_at_once * row_bytes));
  }
  const int64_t n_values = int64_t{args.n_heads} * layout.value_dim;
  if (n.prompt_blocks == 0 && layout.value_dim % kWarp == 0 && args.out_stride == n_values)
    job.rounded = session.prepare(args.next, args.out, n.decode_rows, n_values);
  const int dim = layout.key_dim > layout.value_dim ? layout.key_dim : layout.value_dim;
  const auto run = [&](auto launcher) { launcher(job, n, session.stream()); };
  if (dim <= 64)
    run(launch_attention<64, 64>);
  else if (dim <= 128)
    run(launch_attention<128, 64>);
  else
    run(launch_attention<256, 32>);
}

}  // namespace halfbyte::cuda
