// The panel layouts: 16 rows of a matrix interleaved, so that a vector lane is a row and a thread reads one stream.
#pragma once

// A panel holds rows 16p .. 16p+15 (missing rows are zero) and all columns, in blocks of 32 columns. Inside a block:
//
//   unit c (0..7)     columns 4c .. 4c+3 of all rows: byte 4r + i is row r, column 4c + i
//   nibble plane      4 x 64 bytes: byte b of vector v holds unit v in its low and unit v + 4 in its high nibble
//   2-bit plane       2 x 64 bytes: vector h holds units 4h .. 4h+3, unit 4h + u at bits 2u, 2u + 1
//   1-bit plane       64 bytes: bit c of a byte belongs to unit c
//   byte plane        8 x 64 bytes: the units themselves
//   [16] x            one x per row
//
// clang-format off
//   formats          per 256 columns            per 32 columns (in this order)              w =
//   Q4_0                                        d f16[16], nibbles                          d (q - 8)
//   Q4_1                                        d f16[16], m f16[16], nibbles               d q + m
//   Q5_0                                        d f16[16], nibbles, 1-bit                   d (q - 16)
//   Q5_1                                        d f16[16], m f16[16], nibbles, 1-bit        d q + m
//   Q8_0                                        d f16[16], bytes (code + 128)               d (q - 128)
//   IQ4_NL                                      d f16[16], nibbles                          d table[q]
//   MXFP4                                       e u8[16], nibbles                           2^(e-128) table[q]
//   NVFP4                                       d f16[2][16] (per 16 columns), nibbles      d table[q]
//   IQ4_XS           d f16[16]                  s i8[16], nibbles                           d s table[q]
//   IQ3_XXS IQ3_S    d f16[16], table u8[16]    s u8[16], nibbles                           d s (table[q] - 62) / 4
//   IQ2_XXS IQ1_S    d f16[16], table u8[16]    s u8[16], 2-bit, 1-bit                      d s (table[q] - 43) / 8
//   IQ2_XS IQ2_S IQ1_M   the same               s u8[2][16], 2-bit, 1-bit                   d s (table[q] - 43) / 8
//   Q4_K             d f16[16], dmin f16[16]    s u8[16], m u8[16], nibbles                 d s q - dmin m
//   Q5_K             d f16[16], dmin f16[16]    s u8[16], m u8[16], nibbles, 1-bit          d s q - dmin m
//   Q6_K             d f16[16]                  s i8[2][16], nibbles, 2-bit (high)          d s (q - 32)
//   Q3_K             d f16[16]                  s i8[2][16], 2-bit (low), 1-bit (high)      d s (q - 4)
//   Q2_K             d f16[16], dmin f16[16]    (s | m << 4) u8[2][16], 2-bit               d s q - dmin m
//   TQ1_0 TQ2_0      d f16[16]                  2-bit                                       d (q - 1)
//   Q2_0             d f16[16] per 64 columns   2-bit                                       d (q - 1)
//   Q1_0             d f16[16] per 128 columns  1-bit                                       d (2 q - 1)
//   F32 F16 BF16     no blocks: column k at [k][16]
// clang-format on
//
// The codebooks of IQ1 to IQ3 hold a handful of magnitudes: their index and sign in three or four bits are read faster
// than the codebook, for half a bit to one and a half a weight more.
