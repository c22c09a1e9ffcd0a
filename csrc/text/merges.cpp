// Every piece is cut at every place, 4 million times for a vocabulary of 262,144, and both parts are looked up. Hashes
// of prefixes and suffixes follow from each other, so a look-up does not read the text again unless it finds something.
#include "text/merges.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>

#include "base/error.h"

namespace halfbyte::text {

namespace {

// Polynomial hashes modulo the prime 2^61 - 1: H(s) = sum of (s[i] + 1) * B^(n - 1 - i).
constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1, kBase = 0x1a3f5c7d9b2e4681;

uint64_t add(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum >= kPrime ? sum - kPrime : sum;
}

uint64_t multiply(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return add(static_cast<uint64_t>(product) & kPrime, static_cast<uint64_t>(product >> 61));
}

uint64_t append(uint64_t hash, char c) {
  return add(multiply(hash, kBase), static_cast<uint8_t>(c) + uint64_t{1});
}

uint64_t hash_of(std::string_view text) {
  return std::accumulate(text.begin(), text.end(), uint64_t{0}, append);
}

// Ids by piece: open addressing, at most half full.
class Ids {
 public:
  explicit Ids(std::span<const std::string> pieces) : pieces_(pieces) {
    while ((size_t{1} << bits_) < 2 * pieces.size() + 1) ++bits_;
    slots_.resize(size_t{1} << bits_);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const uint64_t hash = hash_of(pieces[i]);
      slots_[find_slot(hash, pieces[i])] = {hash, static_cast<int32_t>(i)};
    }
  }

  // -1 where there is none.
  int32_t find(uint64_t hash, std::string_view piece) const { return slots_[find_slot(hash, piece)].id; }

 private:
  struct Slot {
    uint64_t hash = 0;
    int32_t id = -1;
  };

  size_t find_slot(uint64_t hash, std::string_view piece) const {
    size_t at = (hash * 0x9e3779b97f4a7c15u) >> (64 - bits_);
    while (slots_[at].id >= 0 && (slots_[at].hash != hash || pieces_[static_cast<size_t>(slots_[at].id)] != piece))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::span<const std::string> pieces_;
  int bits_ = 1;
  std::vector<Slot> slots_;
};

std::vector<uint64_t> powers_up_to(size_t n) {
  std::vector<uint64_t> powers = {1};
  while (powers.size() <= n) powers.push_back(multiply(powers.back(), kBase));
  return powers;
}

}  // namespace

std::vector<std::pair<int32_t, int32_t>> merges_by_score(std::span<const std::string> pieces,
                                                         std::span<const float> scores,
                                                         std::span<const uint8_t> mergeable) {
  require(pieces.size() == scores.size() && pieces.size() == mergeable.size() && pieces.size() < (size_t{1} << 30),
          "%zu pieces with %zu scores and %zu kinds.", pieces.size(), scores.size(), mergeable.size());
  const Ids ids(pieces);
  size_t longest = 0;
  for (const std::string& piece : pieces) longest = std::max(longest, piece.size());
  const std::vector<uint64_t> powers = powers_up_to(longest);

  struct Merge {
    float order;  // -score
    int32_t left, right;
    auto operator<=>(const Merge&) const = default;
  };
  std::vector<Merge> found;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string_view piece = pieces[i];
    const uint64_t hash = hash_of(piece);
    if (mergeable[i] == 0 || ids.find(hash, piece) != static_cast<int32_t>(i)) continue;
    const float order = std::isnan(scores[i]) ? INFINITY : -scores[i];  // a NaN has no place in an order
    uint64_t left_hash = 0;
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      left_hash = append(left_hash, piece[cut - 1]);
      if ((static_cast<uint8_t>(piece[cut]) & 0xc0) == 0x80) continue;
      const int32_t left = ids.find(left_hash, piece.substr(0, cut));
      if (left < 0) continue;
      const uint64_t right_hash = add(hash, kPrime - multiply(left_hash, powers[piece.size() - cut]));
      const int32_t right = ids.find(right_hash, piece.substr(cut));
      if (right >= 0) found.push_back({order, left, right});
    }
  }
  std::sort(found.begin(), found.end(), [](const Merge& a, const Merge& b) { return a < b; });
  std::vector<std::pair<int32_t, int32_t>> merges;
  merges.reserve(found.size());
  for (const Merge& merge : found) merges.emplace_back(merge.left, merge.right);
  return merges;
}

}  // namespace halfbyte::text
