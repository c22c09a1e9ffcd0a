// Selection without full sorts.
#include "sampling/candidates.h"

#include <algorithm>
#include <cmath>

namespace halfbyte::sampling {

namespace {

// Passes over a vocabulary go by groups: their inner loops have no exits and become vector instructions.
constexpr size_t kGroup = 16;

bool any_above(const float* group, float bound) {
  int n_above = 0;
  for (size_t i = 0; i < kGroup; ++i) n_above += group[i] > bound;
  return n_above > 0;
}

}  // namespace

float highest_of(std::span<const float> logits) {
  float highest[kGroup];
  for (float& h : highest) h = -INFINITY;
  size_t i = 0;
  for (; i + kGroup <= logits.size(); i += kGroup)
    for (size_t j = 0; j < kGroup; ++j) highest[j] = logits[i + j] > highest[j] ? logits[i + j] : highest[j];
  for (; i < logits.size(); ++i) highest[0] = std::max(highest[0], logits[i]);
  return *std::max_element(std::begin(highest), std::end(highest));
}

Candidates::Candidates(std::span<float> logits, std::vector<Candidate>& storage) : logits_(logits), list_(storage) {
  list_.clear();
}

std::vector<Candidate>& Candidates::list() {
  if (is_view_) {
    is_view_ = false;
    for (size_t i = 0; i < logits_.size(); ++i) {
      if (logits_[i] != -INFINITY) list_.push_back({static_cast<int32_t>(i), logits_[i], 0.0f});
    }
  }
  return list_;
}

void Candidates::select_top(size_t n) {
  if (is_view_ && n < logits_.size() / 8) {
    // A heap of the n best so far, its worst on top: most logits fail one comparison.
    is_view_ = false;
    float worst = -INFINITY;
    for (size_t i = 0; i < logits_.size(); ++i) {
      while (i % kGroup == 0 && i + kGroup <= logits_.size() && !any_above(&logits_[i], worst)) i += kGroup;
      if (i == logits_.size()) break;
      const float logit = logits_[i];
      if (!(logit > worst)) continue;
      if (list_.size() == n) {
        std::pop_heap(list_.begin(), list_.end(), better);
        list_.pop_back();
      }
      list_.push_back({static_cast<int32_t>(i), logit, 0.0f});
      std::push_heap(list_.begin(), list_.end(), better);
      if (list_.size() == n) worst = list_.front().logit;
    }
    std::sort(list_.begin(), list_.end(), better);
    n_sorted_ = list_.size();
    return;
  }
  list();
  sort_front(n);
  if (list_.size() > n) list_.resize(n);
}

void Candidates::sort() {
  sort_front(list().size());
}

void Candidates::sort_front(size_t n) {
  list();
  n = std::min(n, list_.size());
  if (n <= n_sorted_) return;
  std::partial_sort(list_.begin() + static_cast<std::ptrdiff_t>(n_sorted_),
                    list_.begin() + static_cast<std::ptrdiff_t>(n), list_.end(), better);
  n_sorted_ = n;
}

float Candidates::highest_logit() {
  if (is_view_) return highest_of(logits_);
  if (n_sorted_ > 0) return list_.front().logit;
  return std::max_element(list_.begin(), list_.end(),
                          [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; })
      ->logit;
}

void Candidates::softmax() {
  list();
  const float highest = highest_logit();
  double sum = 0.0;
  for (Candidate& c : list_) {
    c.probability = std::exp(c.logit - highest);
    sum += c.probability;
  }
  for (Candidate& c : list_) c.probability = static_cast<float>(c.probability / sum);
}

}  // namespace halfbyte::sampling
