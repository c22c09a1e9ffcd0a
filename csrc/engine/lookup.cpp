// A hash table of short token runs, and a cursor that walks along a repetition.
#include "engine/lookup.h"

namespace halfbyte::engine {

namespace {
constexpr double kLearn = 0.05;
}

PromptLookup::PromptLookup(std::span<const int32_t> prompt) {
  tokens_.reserve(prompt.size() + 256);
  for (const int32_t token : prompt) index(token);
}

// Adds a token, and looks for its continuation unless the cursor stands at one.
void PromptLookup::index(int32_t token) {
  tokens_.push_back(token);
  const auto n = static_cast<int64_t>(tokens_.size());
  uint64_t hash = 0;
  int64_t found = -1;
  for (int length = 1; length <= kLongest && length <= n; ++length) {
    const auto value = static_cast<uint64_t>(tokens_[static_cast<size_t>(n - length)]) + 1;
    hash = (hash + value) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 29;
    if (length < kShortest) continue;
    int64_t& place = places_[hash + static_cast<uint64_t>(length)];
    if (place > 0) found = place, kind_ = n_right_ > 0 ? kind_ : length - kShortest;
    place = n;
  }
  if (n_right_ == 0) cursor_ = found;
}

void PromptLookup::append(int32_t token) {
  if (cursor_ >= 0) {
    const bool right = tokens_[static_cast<size_t>(cursor_)] == token;
    double& chance = chances_[static_cast<size_t>(kind_)];
    chance += kLearn * ((right ? 1.0 : 0.0) - chance);
    n_right_ = right ? n_right_ + 1 : 0;
    cursor_ = right ? cursor_ + 1 : -1;
    if (right) kind_ = kind_after(n_right_);
  }
  index(token);
}

std::vector<int32_t> PromptLookup::guess(int64_t most, double worth) const {
  std::vector<int32_t> out;
  if (cursor_ < 0) return out;
  double chance = 1.0;
  while (static_cast<int64_t>(out.size()) < most) {
    const auto n = static_cast<int64_t>(out.size());
    chance *= chances_[static_cast<size_t>(n == 0 ? kind_ : kind_after(n_right_ + n))];
    if (chance < worth) break;
    // Past the end of the text the guesses themselves go on: a period repeats.
    const auto at = static_cast<size_t>(cursor_ + n);
    out.push_back(at < tokens_.size() ? tokens_[at] : out[at - tokens_.size()]);
  }
  return out;
}

}  // namespace halfbyte::engine
