// Where a sequence's keys and values lie: one table of KV blocks for each group of layers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ops/kv_layout.h"

namespace halfbyte::cache {

// Entry i of a table: the block of positions 16i..16i+15; -1 where it was given back because it lies behind the window
// of the group's layers. Such entries come first.
using BlockTables = std::vector<std::vector<int32_t>>;

// The first entry that a row at `position` looks at, its layers seeing `window` positions (0: all), their own included.
inline int64_t first_seen_block(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) / ops::kKvBlockTokens : 0;
}

}  // namespace halfbyte::cache
