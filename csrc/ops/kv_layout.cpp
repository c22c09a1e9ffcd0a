// Sizes and names of KV types.
#include "ops/kv_layout.h"

namespace halfbyte::ops {

namespace {

constexpr std::string_view kNames[] = {"f16", "bf16", "f32", "q8_0", "q4_0"};

// Bytes of 16 positions of dim values.
int64_t tile_bytes(KvType type, int dim) {
  constexpr int64_t kTokens = kKvBlockTokens;
  switch (type) {
    case KvType::f16:
    case KvType::bf16:
      return kTokens * dim * 2;
    case KvType::f32:
      return kTokens * dim * 4;
    case KvType::q8_0:
      return kTokens * (dim / 32 * 2 + dim);
    case KvType::q4_0:
      return kTokens * (dim / 32 * 2 + dim / 2);
  }
  return 0;
}

}  // namespace

std::string_view kv_type_name(KvType type) {
  return kNames[static_cast<size_t>(type)];
}

bool parse_kv_type(std::string_view name, KvType& out) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) {
      out = static_cast<KvType>(i);
      return true;
    }
  }
  return false;
}

int64_t KvLayout::key_tile_bytes() const {
  return tile_bytes(k_type, key_dim);
}
int64_t KvLayout::value_tile_bytes() const {
  return tile_bytes(v_type, value_dim);
}

}  // namespace halfbyte::ops
