// What block headers share: unaligned loads and the loop over blocks.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace halfbyte::formats {

inline uint16_t load_u16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline uint32_t load_u32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline float load_f16(const uint8_t* p) {
  return f16_to_f32(load_u16(p));
}

inline void store_f16(uint8_t* p, float value) {
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(p, &bits, sizeof bits);
}

// Element e of a 32-weight nibble block: low nibbles are elements 0..15, high nibbles 16..31.
inline int nibble32(const uint8_t* qs, int e) {
  return qs[e % 16] >> 4 * (e / 16) & 15;
}

inline void pack_nibbles32(const uint8_t* q, uint8_t* qs) {
  for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>(q[i] | q[i + 16] << 4);
}

// 32 codes of five bits: the lower four as nibbles, the fifth of element e at bit e of the four bytes qh.
inline void pack_fives32(const uint8_t* q, uint8_t* qh, uint8_t* qs) {
  for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>((q[i] & 15) | q[i + 16] << 4);
  for (int group = 0; group < 4; ++group) {
    uint64_t codes;
    std::memcpy(&codes, q + 8 * group, sizeof codes);
    // The product brings the fifth bit of byte i to bit 56 + i; no two of its terms meet.
    qh[group] = static_cast<uint8_t>((codes >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
  }
}

// 256 codes of two bits: element e at bits 2(e%128/32) of byte 32(e/128) + e%32.
inline void pack_pairs256(const uint8_t* q, uint8_t* qs) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* from = q + 128 * half;
    for (int i = 0; i < 32; ++i) {
      qs[32 * half + i] = static_cast<uint8_t>(from[i] | from[32 + i] << 2 | from[64 + i] << 4 | from[96 + i] << 6);
    }
  }
}

struct Range {
  float low, high;
};

// Smallest and largest of n weights.
inline Range range_of(const float* w, int n) {
  Range range = {w[0], w[0]};
  for (int i = 1; i < n; ++i) {
    range.low = w[i] < range.low ? w[i] : range.low;
    range.high = w[i] > range.high ? w[i] : range.high;
  }
  return range;
}

// The first weight of largest magnitude, with its sign.
inline float signed_extreme(const float* w, int n) {
  float extreme = 0.0f;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(w[i]) > std::fabs(extreme)) extreme = w[i];
  }
  return extreme;
}

// Runs Block::decode over consecutive blocks.
template <class Block>
void decode_blocks(const void* blocks, float* weights, int64_t n_blocks) {
  const uint8_t* block = static_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < n_blocks; ++i, block += sizeof(Block), weights += Block::kWeights)
    Block::decode(block, weights);
}

template <class Block>
void encode_blocks(const float* weights, void* blocks, int64_t n_blocks) {
  uint8_t* block = static_cast<uint8_t*>(blocks);
  for (int64_t i = 0; i < n_blocks; ++i, block += sizeof(Block), weights += Block::kWeights)
    Block::encode(weights, block);
}

}  // namespace halfbyte::formats
