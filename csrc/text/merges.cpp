// One hash look-up for each split of each piece: 4 million for a vocabulary of 262,144.
#include "text/merges.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "base/error.h"

namespace halfbyte::text {

std::vector<std::pair<int32_t, int32_t>> merges_by_score(std::span<const std::string> pieces,
                                                         std::span<const float> scores,
                                                         std::span<const uint8_t> mergeable) {
  require(pieces.size() == scores.size() && pieces.size() == mergeable.size() && pieces.size() < (size_t{1} << 31),
          "%zu pieces with %zu scores and %zu kinds.", pieces.size(), scores.size(), mergeable.size());
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) ids.insert_or_assign(pieces[i], static_cast<int32_t>(i));

  std::vector<std::tuple<float, int32_t, int32_t>> found;  // -score, left, right
  for (const auto& [piece, id] : ids) {
    const auto index = static_cast<size_t>(id);
    if (mergeable[index] == 0) continue;
    const float order = std::isnan(scores[index]) ? INFINITY : -scores[index];  // a NaN has no place in an order
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      if ((static_cast<uint8_t>(piece[cut]) & 0xc0) == 0x80) continue;
      const auto left = ids.find(piece.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(piece.substr(cut));
      if (right != ids.end()) found.emplace_back(order, left->second, right->second);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<std::pair<int32_t, int32_t>> merges;
  merges.reserve(found.size());
  for (const auto& [order, left, right] : found) merges.emplace_back(left, right);
  return merges;
}

}  // namespace halfbyte::text
