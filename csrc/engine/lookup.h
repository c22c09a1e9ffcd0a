// Guesses the next tokens from the text so far: answers often repeat their prompt, or themselves.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace halfbyte::engine {

// Prompt lookup decoding (Saxena 2023): the continuation of the newest place where the last 4, 3 or 2 tokens stood
// before. While guesses come true it stays at its place. How often each kind of guess comes true is learned all along,
// whether the guesses are used or not, so a text that does not repeat costs nothing.
class PromptLookup {
 public:
  explicit PromptLookup(std::span<const int32_t> prompt);

  // A token that was drawn.
  void append(int32_t token);

  // Up to `most` tokens, as long as the chance that all of them are right is at least `worth`.
  std::vector<int32_t> guess(int64_t most, double worth) const;

 private:
  static constexpr int kShortest = 2, kLongest = 4;  // tokens that must agree
  static constexpr int kKinds = 8;                   // 0..2: by tokens that agreed; 3..7: by guesses that came true

  void index(int32_t token);
  static int kind_after(int64_t n_right) { return static_cast<int>(n_right < 5 ? 2 + n_right : 7); }

  std::vector<int32_t> tokens_;
  std::unordered_map<uint64_t, int64_t> places_;  // hash of some tokens -> index of the token after them
  int64_t cursor_ = -1;                           // index of the token that is expected next
  int64_t n_right_ = 0;                           // guesses from here that came true
  int kind_ = 0;
  std::array<double, kKinds> chances_ = {0.15, 0.3, 0.45, 0.55, 0.65, 0.75, 0.8, 0.85};
};

}  // namespace halfbyte::engine
