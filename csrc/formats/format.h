// What a quant block format is: its identity, its block's size, and how to decode and encode it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halfbyte::formats {

// File ids of GGUF ("ggml_type"). Gaps are retired ids, which must be refused.
enum class TypeId : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};

// One row of the registry.
struct Format {
  TypeId id;
  std::string_view name;  // upper case as users write it: "Q4_K"
  int block_weights;      // weights in a quant block
  int block_bytes;        // bytes in a quant block
  // Decodes n_blocks consecutive blocks (1-byte alignment is enough) into n_blocks * block_weights floats.
  void (*decode)(const void* blocks, float* weights, int64_t n_blocks);
  // The reverse, round to nearest; nullptr where the format has no encoder yet.
  void (*encode)(const float* weights, void* blocks, int64_t n_blocks);
  // Largest accepted rmse(decoded - w) / rms(w) of encode on Gaussian weights; 0 where there is no encoder.
  double max_rmse;

  double bits_per_weight() const { return 8.0 * block_bytes / block_weights; }
  // Bytes of a row of n weights; n must be a multiple of block_weights.
  int64_t row_bytes(int64_t n) const { return n / block_weights * block_bytes; }
};

}  // namespace halfbyte::formats
