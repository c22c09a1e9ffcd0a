// How keys and values lie inside a KV block. Every backend and the store agree on this page.
#pragma once

#include <cstdint>
#include <iterator>
#include <string_view>

namespace halfbyte::ops {

// Positions a KV block holds. Fixed: it is also the number of lanes in a key vector.
inline constexpr int kKvBlockTokens = 16;

enum class KvType : uint8_t { f16, bf16, f32, q8_0, q4_0 };

std::string_view kv_type_name(KvType type);  // "f16"
bool parse_kv_type(std::string_view name, KvType& out);

// One KV block of one layer holds, for each kv head in order, a key tile and then a value tile:
//   key tile, f16 bf16 f32:  (head_dim, 16)            element [d][t]: lanes are positions, so q.k needs no horizontal
//   sum key tile, q8_0:          (head_dim/32, 16) f16 scales, then (head_dim/4, 16, 4) int8 codes   scale of [d/32][t]
//   key tile, q4_0:          (head_dim/32, 16) f16 scales, then (head_dim/8, 16, 4) bytes: in each group of 8 dims
//                            byte i of position t holds dim 8g+i in its low nibble and dim 8g+4+i in its high nibble;
//                            value = scale * (nibble - 8)
//   value tile, f16 bf16 f32: (16, head_dim)
//   value tile, q8_0:        (16, head_dim/32) f16 scales, then (16, head_dim) int8 codes
//   value tile, q4_0:        (16, head_dim/32) f16 scales, then (16, head_dim/2) bytes: byte i of a group of 32 dims
//   holds
//                            dim i in its low nibble and dim 16+i in its high nibble (the GGUF Q4_0 order)
// Quantized types need head_dim to be a multiple of 32. Scales and codes are those of GGUF Q8_0 / Q4_0.
// key_dim and value_dim may differ.
struct KvLayout {
  KvType k_type = KvType::f16;
  KvType v_type = KvType::f16;
  int n_kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  int64_t block_stride = 0;  // bytes from a block to the next; 0: they lie close together

  int64_t key_tile_bytes() const;
  int64_t value_tile_bytes() const;
  int64_t head_bytes() const { return key_tile_bytes() + value_tile_bytes(); }
  int64_t block_bytes() const { return head_bytes() * n_kv_heads; }  // one layer, one KV block
  int64_t stride() const { return block_stride > 0 ? block_stride : block_bytes(); }
};

}  // namespace halfbyte::ops
