// Activations as matrix kernels read them: rounded to int8 or 16-bit floats, in the order of tensor-core operands.
#pragma once

#include "cuda/kinds.h"
#include "cuda/platform.h"

namespace halfbyte::cuda {

// Tokens come in groups of 8 (the last one padded with zeros), columns are padded to 256.
//
// int8, in groups of 32 columns with d = amax / 127 as on the CPU (which sets outliers apart besides): of token
// group G, tile T (32 columns), lane 4g + t has 8 bytes at codes + ((G * n_tiles + T) * 32 + lane) * 8: columns
// 4t .. 4t+3 and 16 + 4t .. of token 8G + g. Beside them, at numbers + (G * n_tiles + T) * 8 + g, d and the sums of the
// two halves' codes.
//
// f16 and bf16: the same with tiles of 16 columns: columns 2t, 2t + 1 and 2t + 8, 2t + 9. f16 tokens are multiplied by
// a power of two, so that the largest number is about 2^9; row_scale[token] undoes it (1 for bf16).
struct TileNumbers {
  float d;
  int16_t sums[2];
};
static_assert(sizeof(TileNumbers) == 8);

struct Operands {
  uint8_t* codes = nullptr;
  TileNumbers* numbers = nullptr;
  float* row_scale = nullptr;
  int n_tokens = 0;
  int n_tiles = 0;  // of 32 columns, or of 16 for the float types

  __host__ __device__ int n_groups() const { return (n_tokens + 7) / 8; }
};

enum class OperandType : uint8_t { int8, f16, bf16, none };  // none: activations as they are

constexpr OperandType operand_of(Kind kind) {
  return kind == Kind::f32    ? OperandType::none
         : kind == Kind::f16  ? OperandType::f16
         : kind == Kind::bf16 ? OperandType::bf16
                              : OperandType::int8;
}

inline int64_t padded_columns(int64_t n_cols) {
  return (n_cols + 255) / 256 * 256;
}
// Bytes of codes and of numbers (or row scales) for n_tokens rows.
int64_t operand_code_bytes(OperandType type, int64_t n_tokens, int64_t n_cols);
int64_t operand_number_bytes(OperandType type, int64_t n_tokens, int64_t n_cols);

// Where operands of n_tokens rows lie in the two buffers, once somebody has made them.
Operands operands_in(OperandType type, int64_t n_tokens, int64_t n_cols, std::byte* codes, std::byte* numbers);

// Starts the conversion of x (n_tokens, n_cols) into the two buffers, and tells where what is. slots, on the device:
// token t is row slots[t] / slots_per_row of x, or zeros where that is -1; nullptr: row t.
Operands make_operands(OperandType type, const float* x, int64_t x_stride, const int32_t* slots, int slots_per_row,
                       int64_t n_tokens, int64_t n_cols, std::byte* codes, std::byte* numbers, cudaStream_t stream);

}  // namespace halfbyte::cuda
