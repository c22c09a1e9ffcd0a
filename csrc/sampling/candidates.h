// The tokens still in the running, and the few operations that stages share.
#pragma once

#include <cstdint>
#include <span>
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

// The highest of some logits, -inf of none. NaN is passed over.
float highest_of(std::span<const float> logits);
// Puts -inf in the place of NaN; the highest of the logits then.
float without_nan(std::span<float> logits);
// The sum of e^(logit - highest), where highest is highest_of(logits).
double mass_of(std::span<const float> logits, float highest);
// The entropy in nats of the softmax of some logits, none of them NaN.
double entropy_of(std::span<const float> logits, float highest, double mass);

// Starts as a view of the whole vocabulary's logits; becomes a list when a stage needs one. Stages that pick few tokens
// from many read the view directly, so a 260,000-token vocabulary is never copied or sorted whole.
class Candidates {
 public:
  explicit Candidates(std::span<float> logits, std::vector<Candidate>& storage);
  // A list from the start: the best of a vocabulary, best first.
  explicit Candidates(std::vector<Candidate>& sorted) : list_(sorted), is_view_(false), n_sorted_(sorted.size()) {}

  // While nothing has asked for a list, edits to logits() still count.
  bool is_view() const { return is_view_; }
  std::span<float> logits() { return logits_; }

  // How many tokens are in the running: those not at -inf.
  size_t size() const;
  // The list; tokens at -inf are left out.
  std::vector<Candidate>& list();

  // Applies logit = change(logit, value) to every token of `values` (token -> value) that is still in the running.
  template <class Map, class Change>
  void adjust(const Map& values, Change&& change) {
    if (is_view_) {
      for (const auto& [token, value] : values) {
        if (token < 0 || static_cast<size_t>(token) >= logits_.size()) continue;
        float& logit = logits_[static_cast<size_t>(token)];
        logit = change(logit, value);
      }
      return;
    }
    for (Candidate& c : list_) {
      const auto found = values.find(c.token);
      if (found != values.end()) c.logit = change(c.logit, found->second);
    }
    n_sorted_ = 0;
  }

  // Keeps the n best, sorted.
  void select_top(size_t n);
  // Of a view: lists the tokens whose logit is not below `bound`. It stays a view, so a lower bound may follow.
  const std::vector<Candidate>& glance(float bound);
  // Keeps the tokens whose logit is not below `bound`, and the n_least best in any case.
  void keep_from(float bound, size_t n_least);
  // Sorts the list, best first.
  void sort();
  // At least the n best stand sorted at the front of the list (cheaper than sort() for few of many).
  void sort_front(size_t n);
  // Fills probabilities over the list: shares of its own mass, or of the `mass` of a vocabulary from which it was
  // taken.
  void softmax();
  void softmax(float highest, double mass);
  float highest_logit();

 private:
  std::span<float> logits_;
  std::vector<Candidate>& list_;
  bool is_view_ = true;
  size_t n_sorted_ = 0;  // how many at the front are sorted and better than the rest
};

}  // namespace halfbyte::sampling
