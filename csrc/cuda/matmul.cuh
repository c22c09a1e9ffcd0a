// The one matrix kernel. A warp multiplies two row tiles (32 rows, or 16 gate rows and their 16 up rows) with up to 64
// tokens on the tensor cores, exactly in integers over 32 columns, and adds those sums up in f32 in column order.
//
// Decoding: the warps of a block share a row tile's columns in slices and add their sums in order. Long prompts: each
// warp takes slices one after another. Both orders are the same, so a row's result depends on nothing but the row.
#pragma once

#include <algorithm>

#include "cuda/operands.cuh"
#include "cuda/tiles.h"
#include "ops/activation.h"

namespace halfbyte::cuda {

// 1.5 * 2^23: an integer added to these bits is the same integer added to the float, so that no conversion is needed.
inline constexpr int kMagicBits = 0x4b400000;
inline constexpr float kMagic = 12582912.0f;

// A lane's sums: [row tile][token group][2 * (row g or g + 8) + (token 2t or 2t + 1)].
template <int kGroups>
using Sums = float[2][kGroups][4];

// What a lane holds of two row tiles at a time: kPairs tile pairs of a cell. `unit` counts such pieces along a row.
template <Kind kKind, int kGroups, int kPairs>
struct Portion {
  static constexpr Shape kShape = shape_of(kKind);
  static constexpr int kUnitsPerCell = kShape.pairs() / kPairs;
  CellPart<kKind, kPairs> parts[2];

  __device__ void load(const uint8_t* const (&weights)[2], int unit, int lane) {
    const int64_t at = static_cast<int64_t>(unit / kUnitsPerCell) * kShape.cell_bytes();
    for (int r = 0; r < 2; ++r) parts[r].load(weights[r] + at, unit % kUnitsPerCell * kPairs, lane);
  }

  __device__ void multiply(const Part& part, const Operands& x, int first_group, int unit, int lane,
                           Sums<kGroups>& sums) const {
    constexpr int kHalves = kShape.step() == 16 ? 2 : 1;
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < 2 * kPairs; ++tile) {
      uint32_t a[2][4];
      float scales[2][kHalves][2], minimums[2][kHalves][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        parts[i].operand(tile, part.tables[i], a[i]);
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            scales[i][half][r] = parts[i].scale(r, tile, half, part.factors[i]);
            if constexpr (kShape.has_minimum) minimums[i][half][r] = parts[i].minimum(r, tile, half);
          }
        }
      }
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int64_t at = static_cast<int64_t>(first_group + group) * x.n_tiles + unit * 2 * kPairs + tile;
        const int n_valid = x.n_tokens - 8 * (first_group + group);
        uint2 b = {0, 0};
        uint4 numbers = {0, 0, 0, 0};
        if (g < n_valid) b = *reinterpret_cast<const uint2*>(x.codes + (at * 32 + lane) * 8);
        if (2 * t < n_valid) numbers = *reinterpret_cast<const uint4*>(x.numbers + at * 8 + 2 * t);
        const float d[2] = {bits_to_float(numbers.x), bits_to_float(numbers.z)};
        const uint32_t sums_of[2] = {numbers.y, numbers.w};
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          float base[2], weighted[2];
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int low = static_cast<int16_t>(sums_of[c]), high = static_cast<int16_t>(sums_of[c] >> 16);
            const auto sum = static_cast<float>(kHalves == 1 ? low + high : half == 0 ? low : high);
            base[c] = -kMagic - static_cast<float>(kShape.offset) * sum;
            weighted[c] = d[c] * sum;
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            int c[4] = {kMagicBits, kMagicBits, kMagicBits, kMagicBits};
            if constexpr (kHalves == 1)
              mma_k32<kShape.is_signed>(c, a[i], b.x, b.y);
            else
              mma_k16<kShape.is_signed>(c, a[i][2 * half], a[i][2 * half + 1], half == 0 ? b.x : b.y);
            float (&to)[4] = sums[i][group];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float dot = bits_to_float(static_cast<uint32_t>(c[e])) + base[e % 2];
              to[e] = fmaf(dot, scales[i][half][e / 2] * d[e % 2], to[e]);
              if constexpr (kShape.has_minimum) to[e] = fmaf(-minimums[i][half][e / 2], weighted[e % 2], to[e]);
            }
          }
        }
      }
    }
  }
};

// 16-bit floats: the tensor cores add up by themselves.
template <Kind kKind, int kGroups, int kPairs>
  requires(kKind == Kind::f16 || kKind == Kind::bf16)
struct Portion<kKind, kGroups, kPairs> {
  static constexpr int kUnitsPerCell = 1;
  uint4 words[2][4];

  __device__ void load(const uint8_t* const (&weights)[2], int unit, int lane) {
    for (int i = 0; i < 2; ++i) {
      for (int tile = 0; tile < 4; ++tile)
        words[i][tile] = load_streaming(
            reinterpret_cast<const uint4*>(weights[i] + static_cast<int64_t>(unit) * 2048 + 512 * tile) + lane);
    }
  }

  __device__ void multiply(const Part&, const Operands& x, int first_group, int unit, int lane,
                           Sums<kGroups>& sums) const {
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int64_t at = static_cast<int64_t>(first_group + group) * x.n_tiles + unit * 4 + tile;
        uint2 b = {0, 0};
        if (lane / 4 < x.n_tokens - 8 * (first_group + group))
          b = *reinterpret_cast<const uint2*>(x.codes + (at * 32 + lane) * 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t a[4] = {words[i][tile].x, words[i][tile].y, words[i][tile].z, words[i][tile].w};
          if constexpr (kKind == Kind::f16)
            mma_half(sums[i][group], a, b.x, b.y);
          else
            mma_bfloat(sums[i][group], a, b.x, b.y);
        }
      }
    }
  }
};

// Adds cells [begin, end) of a pair of row tiles to `sums`.
template <Kind kKind, int kGroups>
__device__ inline void add_cells(const Part& part, const uint8_t* const (&weights)[2], const Operands& x,
                                 int first_group, int begin, int end, int lane, Sums<kGroups>& sums) {
  if constexpr (kGroups <= 2) {
    // Few tokens: memory is the bound, so the next cells are on their way while one is computed.
    constexpr int kAhead = shape_of(kKind).tiles == 2 ? 2 : 1;
    using Whole = Portion<kKind, kGroups, shape_of(kKind).pairs()>;
    Whole ring[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i < end) ring[i].load(weights, begin + i, lane);
    }
#pragma unroll 1
    for (int cell = begin; cell < end; cell += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (cell + i < end) {
          const Whole now = ring[i];
          if (cell + i + kAhead < end) ring[i].load(weights, cell + i + kAhead, lane);
          now.multiply(part, x, first_group, cell + i, lane, sums);
        }
      }
    }
  } else {
    using One = Portion<kKind, kGroups, 1>;
#pragma unroll 1
    for (int unit = begin * One::kUnitsPerCell; unit < end * One::kUnitsPerCell; ++unit) {
      One now;
      now.load(weights, unit, lane);
      now.multiply(part, x, first_group, unit, lane, sums);
    }
  }
}

// A gated output of 32 columns on its way to int8: (token, column) in shared memory. Rows this long put what a warp
// writes at once into different banks.
inline constexpr int kStagedRow = 36;

// Bias, activation, gate, scale, and the write (or add) of a lane's sums. staged: where else a gated output's 16
// columns go, or nullptr.
template <int kGroups>
__device__ inline void write_out(const Job& job, const Part& part, int expert, int n_tokens, int pair, int first_group,
                                 int lane, const Sums<kGroups>& sums, float* staged) {
  const int g = lane / 4, t = lane % 4;
  const bool is_gated = part.up != nullptr;
  const int64_t first_bias = static_cast<int64_t>(expert) * part.n_rows;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = 8 * (first_group + group) + 2 * t + e % 2;
      if (token >= n_tokens) continue;
      const int64_t target = job.slots != nullptr ? job.slots[token] : token;
      const float unscale = job.x.row_scale != nullptr ? job.x.row_scale[token] : 1.0f;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = 16 * (is_gated ? pair : 2 * pair + i) + g + e / 2 * 8;
        if (row >= part.n_rows || (is_gated && i == 1)) continue;
        float value = sums[i][group][e] * unscale;
        if (part.bias != nullptr) value += part.bias[first_bias + row];
        if (part.limit > 0) value = fminf(value, part.limit);
        value = part.scale * ops::activate(part.activation, value);
        if (is_gated) {
          float up = sums[1][group][e] * unscale;
          if (part.up_bias != nullptr) up += part.up_bias[first_bias + row];
          if (part.limit > 0) up = fminf(fmaxf(up, -part.limit), part.limit);
          value *= up + part.shift;
        }
        float& out = part.out[target * part.out_stride + row];
        out = part.accumulate ? out + value : value;
        if (staged != nullptr) staged[(8 * group + 2 * t + e % 2) * kStagedRow + g + e / 2 * 8] = value;
      }
    }
  }
}

// The output of the block's pairs of row tiles, rounded: a warp takes 32 columns of a token.
template <int kGroups>
__device__ inline void round_output(const Operands& to, int first_pair, int n_pairs, int first_group,
                                    const float* staged) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int n_warps = static_cast<int>(blockDim.x) / kWarp, n_tokens = 8 * kGroups;
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < n_pairs / 2 * n_tokens; i += n_warps) {
    const int token = 8 * first_group + i % n_tokens, tile = first_pair / 2 + i / n_tokens;
    if (token < to.n_tokens && tile < to.n_tiles) round_tile(to, token, tile, lane, staged[i * kStagedRow + lane]);
  }
}

// Warps share a row tile's columns, a slice each, or (is_sequential) take all slices of their own row tiles in turn.
template <Kind kKind, int kGroups>
__global__ void __launch_bounds__(256) multiply_rows(const Job job, bool is_sequential) {
  auto* shared = reinterpret_cast<float*>(shared_memory());  // of launch_rows()
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  int first_group = static_cast<int>(blockIdx.x) * kGroups, expert = 0;
  Operands x = job.x;
  if (job.tiles != nullptr) {
    const ExpertTile tile = job.tiles[blockIdx.x];
    if (tile.expert < 0) return;
    first_group = tile.first_group;
    x.n_tokens = tile.end;
    expert = tile.expert;
  }
  const int warps_per_pair = is_sequential ? 1 : job.n_slices;
  const int pairs_per_block = static_cast<int>(blockDim.x) / kWarp / warps_per_pair;
  int pair = static_cast<int>(blockIdx.y) * pairs_per_block + warp / warps_per_pair;
  int index = 0;
  while (index < job.n_parts - 1 && pair >= job.parts[index].pair_end) ++index;
  const Part& part = job.parts[index];
  const bool is_active = pair < part.pair_end;
  if (index > 0) pair -= job.parts[index - 1].pair_end;

  const int64_t tile_bytes = static_cast<int64_t>(job.n_cells) * shape_of(kKind).cell_bytes();
  const int64_t matrix = expert * job.matrix_bytes;
  const uint8_t* const weights[2] = {
      part.weight + matrix + (part.up != nullptr ? pair : 2 * pair) * tile_bytes,
      part.up != nullptr ? part.up + matrix + pair * tile_bytes : part.weight + matrix + (2 * pair + 1) * tile_bytes,
  };
  const int cells_each = (job.n_cells + job.n_slices - 1) / job.n_slices;
  const int first_slice = is_sequential ? 0 : warp % warps_per_pair;
  const int slices_end = is_sequential ? job.n_slices : first_slice + 1;
  Sums<kGroups> sums = {};
  // The sum of the slices so far waits in shared memory: the registers are needed for the next one.
  float* before = shared + warp * 8 * kGroups * kWarp + lane;
#pragma unroll 1
  for (int slice = first_slice; slice < slices_end && is_active; ++slice) {
    const int begin = slice * cells_each, end = begin + cells_each < job.n_cells ? begin + cells_each : job.n_cells;
    if (begin >= end) break;
    if (slice > first_slice) {
#pragma unroll
      for (int i = 0; i < 8 * kGroups; ++i) {
        float& sum = sums[i % 2][i / 8][i / 2 % 4];
        before[i * kWarp] = sum;
        sum = 0.0f;
      }
    }
    add_cells<kKind, kGroups>(part, weights, x, first_group, begin, end, lane, sums);
    if (slice > first_slice) {
#pragma unroll
      for (int i = 0; i < 8 * kGroups; ++i) {
        float& sum = sums[i % 2][i / 8][i / 2 % 4];
        sum = before[i * kWarp] + sum;
      }
    }
  }
  if (warps_per_pair > 1) {
    // Later slices hand their sums to the first, which adds them in order. Slices without cells hand over nothing.
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      __syncthreads();
#pragma unroll
      for (int e = 0; e < 8; ++e) shared[(warp * 8 + e) * kWarp + lane] = sums[e / 4][group][e % 4];
      __syncthreads();
      for (int other = 1; first_slice == 0 && other < warps_per_pair && other * cells_each < job.n_cells; ++other) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[e / 4][group][e % 4] += shared[((warp + other) * 8 + e) * kWarp + lane];
      }
    }
  }
  if constexpr (kGroups <= 2) {
    if (job.rounded.codes != nullptr) {
      // What lies past the output's columns is zero, as in make_operands().
      float* columns = shared + (warp / warps_per_pair / 2 * 8 * kGroups) * kStagedRow + warp / warps_per_pair % 2 * 16;
      __syncthreads();  // everyone is done with the slices' sums
      if (is_active && first_slice == 0) {
        write_out<kGroups>(job, part, expert, x.n_tokens, pair, first_group, lane, sums, columns);
      } else if (first_slice == 0) {
        for (int i = lane; i < 8 * kGroups * 16; i += kWarp) columns[i / 16 * kStagedRow + i % 16] = 0.0f;
      }
      __syncthreads();
      round_output<kGroups>(job.rounded, static_cast<int>(blockIdx.y) * pairs_per_block, pairs_per_block, first_group,
                            shared);
      return;
    }
  }
  if (is_active && first_slice == 0)
    write_out<kGroups>(job, part, expert, x.n_tokens, pair, first_group, lane, sums, nullptr);
}

template <Kind kKind, int kGroups>
void launch_rows(const Job& job, bool is_sequential, cudaStream_t stream) {
  const int n_warps = is_sequential ? 4 : kFewWarps, pairs_per_block = is_sequential ? n_warps : n_warps / job.n_slices;
  int n_pairs = job.parts[job.n_parts - 1].pair_end;
  size_t n_shared = static_cast<size_t>(kWarp * 8 * n_warps * (is_sequential ? kGroups : 1));
  if (job.rounded.codes != nullptr) {
    n_pairs = 2 * job.rounded.n_tiles;
    n_shared = std::max(n_shared, static_cast<size_t>(pairs_per_block / 2 * 8 * kGroups * kStagedRow));
  }
  const dim3 grid(
      static_cast<unsigned>(job.tiles != nullptr ? job.n_tiles : (job.x.n_groups() + kGroups - 1) / kGroups),
      static_cast<unsigned>((n_pairs + pairs_per_block - 1) / pairs_per_block));
  launch(stream, grid, dim3(static_cast<unsigned>(n_warps * kWarp)), n_shared * sizeof(float),
         multiply_rows<kKind, kGroups>, job, is_sequential);
}

template <Kind kKind>
void multiply(const Job& job, int n_groups, bool is_sequential, cudaStream_t stream) {
  if (n_groups == 1) return launch_rows<kKind, 1>(job, false, stream);
  if (n_groups == 2) return launch_rows<kKind, 2>(job, false, stream);
  launch_rows<kKind, 8>(job, is_sequential, stream);
}

}  // namespace halfbyte::cuda
