// The tokens still in the running, and the few operations that stages share.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace halfbyte::sampling {

struct Candidate {
  int32_t token = 0;
  float logit = 0.0f;
  float probability = 0.0f;  // filled by softmax()
};

// Better first: higher logit, then lower id.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// Starts as a view of the whole vocabulary's logits; becomes a list when a stage needs one. Stages that pick few tokens
// from many read the view directly, so a 260,000-token vocabulary is never copied or sorted whole.
class Candidates {
 public:
  explicit Candidates(std::span<float> logits, std::vector<Candidate>& storage);

  // True until list() or select_top(): edits to logits() still count.
  bool is_view() const { return is_view_; }
  std::span<float> logits() { return logits_; }

  // The list; tokens at -inf are left out.
  std::vector<Candidate>& list();

  // Takes a changed list; its order counts as unsorted.
  void replace(std::vector<Candidate> list) {
    is_view_ = false;
    list_ = std::move(list);
    n_sorted_ = 0;
  }

  // Keeps the n best, sorted.
  void select_top(size_t n);
  // Sorts the list, best first.
  void sort();
  // At least the n best stand sorted at the front of the list (cheaper than sort() for few of many).
  void sort_front(size_t n);
  // Fills probabilities over the list.
  void softmax();
  float highest_logit();

 private:
  std::span<float> logits_;
  std::vector<Candidate>& list_;
  bool is_view_ = true;
  size_t n_sorted_ = 0;  // how many at the front are sorted and better than the rest
};

}  // namespace halfbyte::sampling
