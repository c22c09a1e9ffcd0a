// The list of tile encoders, and the function that encodes rows with them.
#pragma once

#include <cstdint>

#include "formats/format.h"
#include "quantize/tile.h"

namespace halfbyte::quantize {

extern const TileEncoder q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, mxfp4, tq1_0, tq2_0;  // encode_flat.cpp
extern const TileEncoder q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs;                       // encode_nested.cpp
extern const TileEncoder iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s;                     // encode_codebook.cpp
extern const TileEncoder iq1_s, iq1_m;                                               // encode_ternary_codebook.cpp

// Whether weights can be encoded to the format: all but activation formats, integers and the few without an encoder.
bool can_encode(const formats::Format& format);

// Encodes n_rows rows of n_cols weights (row-major) into out (n_rows * format.row_bytes(n_cols) bytes), minimizing
// sum importance[column] * (decoded - weight)^2. importance: (n_cols) >= 0, or nullptr for ones. can_encode(format),
// and n_cols is a multiple of the format's block. A row's result depends on the row alone, not on the CPU.
void encode_rows(const formats::Format& format, const float* weights, int64_t n_rows, int64_t n_cols,
                 const float* importance, std::byte* out);

}  // namespace halfbyte::quantize
