// What the attention kernels have in common: which rows and positions a block takes, and the online softmax.
//
// A tensor-core tile takes 16 (row, query head) pairs that share a kv head. Positions are taken in tiles that begin at
// multiples of the tile, so that a row's result does not depend on the rows beside it.
#pragma once

#include <cmath>

#include "cuda/kv_tiles.cuh"
#include "cuda/operands.h"
#include "cuda/session.h"

namespace halfbyte::cuda {

inline constexpr int kPairs = 16;
inline constexpr float kLog2E = 1.44269504088896f;

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

// Positions fit an int (ops::StepInputs), which takes half the registers.
__device__ inline int first_visible(const AttentionJob& job, int64_t position) {
  return job.window > 0 && position - job.window + 1 > 0 ? static_cast<int>(position - job.window + 1) : 0;
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

__device__ inline KvView view_of(const AttentionJob& job, const Span& span, int kv_head) {
  return {job.kv + kv_head * job.head_bytes,
          job.block_bytes,
          span.table,
          job.key_dim,
          job.value_dim,
          job.key_tile_bytes,
          job.k_type,
          job.v_type};
}

// The block's work: a prompt's pairs, or the heads of a decoding row. False: nothing.
template <bool kDecode>
__device__ inline bool find_work(const AttentionJob& job, int pairs_per_block, int lane, Work& work, int& decode_row) {
  const int index = static_cast<int>(blockIdx.x);
  if (!kDecode) return find_prompt_work(job, index, pairs_per_block, work);
  const int per_row = (job.group + kPairs - 1) / kPairs;
  decode_row = job.first_decode_row + index / per_row;
  const Span& span = span_of_row(job, decode_row, lane);
  const int row = row_in_span(span, decode_row);
  work = {&span, row * job.group + index % per_row * kPairs, (row + 1) * job.group};
  return true;
}

// Its positions: from the first row's first to the last row's own; decoding, those of the block's chunk.
struct Positions {
  int begin, end;
};
template <bool kDecode>
__device__ inline Positions positions_of(const AttentionJob& job, const Work& work, int pairs_per_block) {
  const int last_pair = work.first + pairs_per_block < work.end ? work.first + pairs_per_block - 1 : work.end - 1;
  int begin = first_visible(job, work.span->first_position + work.first / job.group);
  int end = static_cast<int>(work.span->first_position) + last_pair / job.group + 1;
  if (kDecode) {
    const int chunk = static_cast<int>(blockIdx.z), length = static_cast<int>(kChunk);
    if (begin < chunk * length) begin = chunk * length;
    if (end > (chunk + 1) * length) end = (chunk + 1) * length;
  }
  return {begin, end};
}

// A lane's two pairs: rows g and g + 8 of a tile's 16, and what the softmax knows of them so far.
struct Pairs {
  int heads[2];
  int rows[2], seen_from[2], seen_to[2];  // positions [from, to)
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};

  __device__ Pairs(const AttentionJob& job, const Work& work, int first_pair, int kv_head, int g) {
    const Span& span = *work.span;
    for (int r = 0; r < 2; ++r) {
      const int pair = first_pair + g + 8 * r;
      const bool is_real = pair < work.end;
      const int row = pair / job.group;
      heads[r] = kv_head * job.group + pair % job.group;
      rows[r] = is_real ? span.first_row + row : -1;
      seen_from[r] = first_visible(job, span.first_position + row);
      seen_to[r] = is_real ? static_cast<int>(span.first_position) + row + 1 : 0;
    }
  }

  // Nothing for a pair that is none.
  __device__ const float* query(const AttentionJob& job, int r) const {
    return rows[r] >= 0 ? job.query + rows[r] * job.query_stride + static_cast<int64_t>(heads[r]) * job.key_dim
                        : nullptr;
  }

  // Turns a tile's scores into weights, and brings the sums so far down to the highest score known now.
  template <int kTiles, int kSums>
  __device__ void weigh(const AttentionJob& job, int first, int end, int t, float (&scores)[kTiles][4],
                        float (&sums)[kSums][4]) {
    float now[2] = {highest[0], highest[1]};
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int position = first + 8 * n + 2 * t + e % 2;
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
      for (int d = 0; d < kSums; ++d) {
        sums[d][2 * r] *= keep;
        sums[d][2 * r + 1] *= keep;
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2f(scores[n][e] - shift[e / 2]);
        total[e / 2] += scores[n][e];
      }
    }
  }

  // Writes the sums of dims from first_dim on: finished, or as a chunk's part that merge() takes.
  template <bool kDecode, int kSums>
  __device__ void write(const AttentionJob& job, int decode_row, int first_dim, int t, float (&sums)[kSums][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] += shuffle_xor(total[r], 1);
      total[r] += shuffle_xor(total[r], 2);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (rows[r] < 0) continue;
      float scale = 1.0f;
      float* to = nullptr;
      if (kDecode) {
        to = partial_of(job, decode_row, heads[r], static_cast<int>(blockIdx.z));
        if (t == 0 && first_dim == 0) to[0] = highest[r], to[1] = total[r];
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
      for (int d = 0; d < kSums; ++d) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int at = first_dim + 8 * d + 2 * t + c;
          if (at < job.value_dim) to[at] = sums[d][2 * r + c] * scale;
        }
      }
    }
  }
};

__device__ inline float query_factor(const AttentionJob& job) {
  return job.softcap > 0 ? job.scale : job.scale * kLog2E;
}

// attention_wide.cu: heads of more than 256 dims, in n_blocks of a kv head and chunk.
void attend_wide(const AttentionJob& job, bool is_decode, int n_blocks, int n_kv_heads, cudaStream_t stream);

}  // namespace halfbyte::cuda
