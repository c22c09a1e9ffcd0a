// Rounds activations and lays them out as operands.
#include <cmath>

#include "cuda/operands.cuh"

namespace halfbyte::cuda {

namespace {

constexpr int kWarpsPerBlock = 8;

struct Source {
  const float* x;
  int64_t stride;
  const int32_t* slots;
  int slots_per_row;
  int n_tokens, n_cols;

  __device__ const float* row(int token) const {
    if (token >= n_tokens) return nullptr;
    const int64_t slot = slots != nullptr ? slots[token] : token;
    return slot < 0 ? nullptr : x + slot / slots_per_row * stride;
  }
};

// A warp a tile of 32 columns: lane l rounds column l.
__global__ void quantize(const Source source, const Operands to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, token = static_cast<int>(blockIdx.x);
  const int tile = static_cast<int>(blockIdx.y) * kWarpsPerBlock + static_cast<int>(threadIdx.x) / kWarp;
  if (tile >= to.n_tiles) return;
  const int column = 32 * tile + lane;
  const float* row = source.row(token);
  round_tile(to, token, tile, lane, row != nullptr && column < source.n_cols ? row[column] : 0.0f);
}

// A block a token: the scale first, then the columns.
template <bool kBfloat>
__global__ void round_to_16_bits(const Source source, int n_tiles, uint8_t* codes, float* row_scale) {
  __shared__ float largest_of[kWarpsPerBlock];
  const int token = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int n_threads = kWarpsPerBlock * kWarp;
  const float* row = source.row(token);
  const int n_cols = row != nullptr ? source.n_cols : 0;
  float factor = 1.0f, scale = 1.0f;
  if (!kBfloat) {
    float largest = 0.0f;
    for (int c = thread; c < n_cols; c += n_threads) largest = fmaxf(largest, fabsf(row[c]));
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
    if (thread % kWarp == 0) largest_of[thread / kWarp] = largest;
    __syncthreads();
    for (int i = 0; i < kWarpsPerBlock; ++i) largest = fmaxf(largest, largest_of[i]);
    if (largest > 0 && largest <= 1e30f) {
      const int exponent = ilogbf(largest);
      factor = ldexpf(1.0f, 9 - exponent < 127 ? 9 - exponent : 127);
      scale = 1.0f / factor;
    }
    if (thread == 0) row_scale[token] = scale;
  } else if (thread == 0) {
    row_scale[token] = 1.0f;
  }
  auto* words = reinterpret_cast<uint32_t*>(codes);
  for (int c = 2 * thread; c < 16 * n_tiles; c += 2 * n_threads) {
    uint32_t bits = 0;
    for (int i = 0; i < 2; ++i) {
      const float value = c + i < n_cols ? row[c + i] * factor : 0.0f;
      bits |= static_cast<uint32_t>(kBfloat ? float_to_bfloat(value) : float_to_half(value)) << 16 * i;
    }
    const int64_t at = static_cast<int64_t>(token / 8) * n_tiles + c / 16;
    words[(at * 32 + token % 8 * 4 + c % 8 / 2) * 2 + c % 16 / 8] = bits;
  }
}

}  // namespace

int64_t operand_code_bytes(OperandType type, int64_t n_tokens, int64_t n_cols) {
  return (n_tokens + 7) / 8 * 8 * padded_columns(n_cols) * (type == OperandType::int8 ? 1 : 2);
}

int64_t operand_number_bytes(OperandType type, int64_t n_tokens, int64_t n_cols) {
  const int64_t n_rows = (n_tokens + 7) / 8 * 8;
  return type == OperandType::int8 ? n_rows * padded_columns(n_cols) / 32 * static_cast<int64_t>(sizeof(TileNumbers))
                                   : n_rows * static_cast<int64_t>(sizeof(float));
}

Operands operands_in(OperandType type, int64_t n_tokens, int64_t n_cols, std::byte* codes, std::byte* numbers) {
  Operands out;
  out.codes = reinterpret_cast<uint8_t*>(codes);
  out.n_tokens = static_cast<int>(n_tokens);
  out.n_tiles = static_cast<int>(padded_columns(n_cols) / (type == OperandType::int8 ? 32 : 16));
  if (type == OperandType::int8)
    out.numbers = reinterpret_cast<TileNumbers*>(numbers);
  else
    out.row_scale = reinterpret_cast<float*>(numbers);
  return out;
}

Operands make_operands(OperandType type, const float* x, int64_t x_stride, const int32_t* slots, int slots_per_row,
                       int64_t n_tokens, int64_t n_cols, std::byte* codes, std::byte* numbers, cudaStream_t stream) {
  const Operands out = operands_in(type, n_tokens, n_cols, codes, numbers);
  const auto rows = static_cast<unsigned>(8 * out.n_groups());
  const Source source = {x, x_stride, slots, slots_per_row, out.n_tokens, static_cast<int>(n_cols)};
  const dim3 block(kWarpsPerBlock * kWarp);
  if (type == OperandType::int8) {
    launch(stream, dim3(rows, static_cast<unsigned>(out.n_tiles / kWarpsPerBlock)), block, 0, quantize, source, out);
  } else {
    launch(stream, dim3(rows), block, 0, type == OperandType::bf16 ? round_to_16_bits<true> : round_to_16_bits<false>,
           source, out.n_tiles, out.codes, out.row_scale);
  }
  return out;
}

}  // namespace halfbyte::cuda
