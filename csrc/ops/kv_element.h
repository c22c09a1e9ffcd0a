// Reads and writes single keys and values of a KV block, position by position: the definition of kv_layout.h's tiles.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "base/host_device.h"
#include "ops/kv_layout.h"

namespace halfbyte::ops {

inline uint16_t load_u16(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
inline void store_u16(std::byte* p, uint16_t bits) {
  std::memcpy(p, &bits, sizeof bits);
}

// One quantized group of 32: the f16 scale and codes of GGUF Q8_0 (qmax 127) or Q4_0 (qmax -8).
inline float kv_group_scale(KvType type, const float* x) {
  float extreme = 0.0f;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  return type == KvType::q8_0 ? std::fabs(extreme) / 127.0f : extreme / -8.0f;
}

// The code of one number; what is no number gets the middle code.
HALFBYTE_HOST_DEVICE inline int kv_code(KvType type, float x, float inverse) {
  const float low = type == KvType::q8_0 ? -127.0f : -8.0f, high = type == KvType::q8_0 ? 127.0f : 7.0f;
  const float scaled = x * inverse;
  const float bounded = scaled >= low ? (scaled <= high ? scaled : high) : (scaled < low ? low : 0.0f);
  if (type == KvType::q8_0) return static_cast<int>(std::nearbyintf(bounded));
  return static_cast<int>(std::floor(bounded + 8.5f));
}

// Writes position t's key (key_dim floats) into a key tile.
inline void store_key(const KvLayout& layout, std::byte* tile, int t, const float* key) {
  const int dim = layout.key_dim;
  constexpr int kT = kKvBlockTokens;
  switch (layout.k_type) {
    case KvType::f16:
      for (int first = 0; first < dim; first += 32) {  // converted together, in vector instructions; then one by one
        const int n = dim - first < 32 ? dim - first : 32;
        uint16_t halves[32];
        for (int i = 0; i < n; ++i) halves[i] = f32_to_f16(key[first + i]);
        for (int i = 0; i < n; ++i) store_u16(tile + 2 * ((first + i) * kT + t), halves[i]);
      }
      return;
    case KvType::bf16:
      for (int d = 0; d < dim; ++d) store_u16(tile + 2 * (d * kT + t), f32_to_bf16(key[d]));
      return;
    case KvType::f32:
      for (int d = 0; d < dim; ++d) std::memcpy(tile + 4 * (d * kT + t), key + d, 4);
      return;
    case KvType::q8_0:
    case KvType::q4_0:
      break;
  }
  std::byte* codes = tile + 2 * (dim / 32) * kT;
  for (int group = 0; group < dim / 32; ++group) {
    const float scale = kv_group_scale(layout.k_type, key + 32 * group), inverse = scale != 0 ? 1.0f / scale : 0.0f;
    store_u16(tile + 2 * (group * kT + t), f32_to_f16(scale));
    for (int i = 0; i < 32; ++i) {
      const int d = 32 * group + i, code = kv_code(layout.k_type, key[d], inverse);
      if (layout.k_type == KvType::q8_0) {
        codes[(d / 4 * kT + t) * 4 + d % 4] = static_cast<std::byte>(code);
      } else {
        std::byte& pair = codes[(d / 8 * kT + t) * 4 + d % 4];
        pair = d % 8 < 4 ? static_cast<std::byte>(code) : pair | static_cast<std::byte>(code << 4);
      }
    }
  }
}

inline void load_key(const KvLayout& layout, const std::byte* tile, int t, float* key) {
  const int dim = layout.key_dim;
  constexpr int kT = kKvBlockTokens;
  const std::byte* codes = tile + 2 * (dim / 32) * kT;
  for (int d = 0; d < dim; ++d) {
    switch (layout.k_type) {
      case KvType::f16:
        key[d] = f16_to_f32(load_u16(tile + 2 * (d * kT + t)));
        break;
      case KvType::bf16:
        key[d] = bf16_to_f32(load_u16(tile + 2 * (d * kT + t)));
        break;
      case KvType::f32:
        std::memcpy(key + d, tile + 4 * (d * kT + t), 4);
        break;
      case KvType::q8_0:
        key[d] = f16_to_f32(load_u16(tile + 2 * (d / 32 * kT + t))) *
                 static_cast<float>(static_cast<int8_t>(codes[(d / 4 * kT + t) * 4 + d % 4]));
        break;
      case KvType::q4_0: {
        const int pair = static_cast<int>(codes[(d / 8 * kT + t) * 4 + d % 4]);
        const int code = (d % 8 < 4 ? pair : pair >> 4) & 15;
        key[d] = f16_to_f32(load_u16(tile + 2 * (d / 32 * kT + t))) * static_cast<float>(code - 8);
        break;
      }
    }
  }
}

inline void store_value(const KvLayout& layout, std::byte* tile, int t, const float* value) {
  const int dim = layout.value_dim;
  switch (layout.v_type) {
    case KvType::f16:
      for (int d = 0; d < dim; ++d) store_u16(tile + 2 * (t * dim + d), f32_to_f16(value[d]));
      return;
    case KvType::bf16:
      for (int d = 0; d < dim; ++d) store_u16(tile + 2 * (t * dim + d), f32_to_bf16(value[d]));
      return;
    case KvType::f32:
      std::memcpy(tile + 4 * t * dim, value, 4 * static_cast<size_t>(dim));
      return;
    case KvType::q8_0:
    case KvType::q4_0:
      break;
  }
  const int n_groups = dim / 32;
  std::byte* codes = tile + 2 * n_groups * kKvBlockTokens;
  for (int group = 0; group < n_groups; ++group) {
    const float* x = value + 32 * group;
    const float scale = kv_group_scale(layout.v_type, x), inverse = scale != 0 ? 1.0f / scale : 0.0f;
    store_u16(tile + 2 * (t * n_groups + group), f32_to_f16(scale));
    for (int i = 0; i < 32; ++i) {
      const int code = kv_code(layout.v_type, x[i], inverse);
      if (layout.v_type == KvType::q8_0) {
        codes[t * dim + 32 * group + i] = static_cast<std::byte>(code);
      } else {
        std::byte& pair = codes[t * dim / 2 + 16 * group + i % 16];
        pair = i < 16 ? static_cast<std::byte>(code) : pair | static_cast<std::byte>(code << 4);
      }
    }
  }
}

inline void load_value(const KvLayout& layout, const std::byte* tile, int t, float* value) {
  const int dim = layout.value_dim, n_groups = dim / 32;
  const std::byte* codes = tile + 2 * n_groups * kKvBlockTokens;
  for (int d = 0; d < dim; ++d) {
    switch (layout.v_type) {
      case KvType::f16:
        value[d] = f16_to_f32(load_u16(tile + 2 * (t * dim + d)));
        break;
      case KvType::bf16:
        value[d] = bf16_to_f32(load_u16(tile + 2 * (t * dim + d)));
        break;
      case KvType::f32:
        std::memcpy(value + d, tile + 4 * (t * dim + d), 4);
        break;
      case KvType::q8_0:
        value[d] = f16_to_f32(load_u16(tile + 2 * (t * n_groups + d / 32))) *
                   static_cast<float>(static_cast<int8_t>(codes[t * dim + d]));
        break;
      case KvType::q4_0: {
        const int pair = static_cast<int>(codes[t * dim / 2 + d / 32 * 16 + d % 16]);
        const int code = (d % 32 < 16 ? pair : pair >> 4) & 15;
        value[d] = f16_to_f32(load_u16(tile + 2 * (t * n_groups + d / 32))) * static_cast<float>(code - 8);
        break;
      }
    }
  }
}

}  // namespace halfbyte::ops
