// Selection without full sorts.
#include "sampling/candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace halfbyte::sampling {

namespace {

// Passes over a vocabulary go by groups, most of which one comparison without exits (vector instructions) dismisses.
constexpr size_t kGroup = 64;

bool any_above(const float* group, float bound) {
  int n_above = 0;
  for (size_t i = 0; i < kGroup; ++i) n_above += group[i] > bound;
  return n_above > 0;
}

// False also for NaN.
bool none_above(const float* group, float bound) {
  int n_below = 0;
  for (size_t i = 0; i < kGroup; ++i) n_below += group[i] <= bound;
  return n_below == kGroup;
}

// e^x for x <= 0 within 2 ulp, and 0 below -87.6 and for NaN; without calls or branches, for loops that become vector
// instructions. 2^n by its bits (n = -127 is zero) times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients).
float exp_of_negative(float x) {
  x = x > -88.0f ? x : -88.0f;
  const auto n = static_cast<int32_t>(x * 1.44269504f - 0.5f);
  const auto n_float = static_cast<float>(n);
  const float r = x - n_float * 0.693359375f + n_float * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = y * r + c;
  y = y * r * r + r + 1.0f;
  return y * std::bit_cast<float>((n + 127) << 23);
}

// The sum of a term of each logit. Floats are summed over few tokens at a time, so that their rounding does not add up.
template <class Term>
double sum_of(std::span<const float> logits, Term&& term) {
  constexpr size_t kLanes = 16, kRun = 256;
  double total = 0.0;
  size_t i = 0;
  for (; i + kRun <= logits.size(); i += kRun) {
    float sums[kLanes] = {};
    for (size_t first = i; first < i + kRun; first += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(logits[first + lane]);
    for (const float sum : sums) total += sum;
  }
  for (; i < logits.size(); ++i) total += term(logits[i]);
  return total;
}

}  // namespace

float highest_of(std::span<const float> logits) {
  float highest = -INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    while (i % kGroup == 0 && i + kGroup <= logits.size() && !any_above(&logits[i], highest)) i += kGroup;
    if (i < logits.size() && logits[i] > highest) highest = logits[i];
  }
  return highest;
}

float without_nan(std::span<float> logits) {
  float highest = -INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    while (i % kGroup == 0 && i + kGroup <= logits.size() && none_above(&logits[i], highest)) i += kGroup;
    if (i == logits.size()) break;
    if (std::isnan(logits[i])) logits[i] = -INFINITY;
    highest = std::max(highest, logits[i]);
  }
  return highest;
}

double mass_of(std::span<const float> logits, float highest) {
  return sum_of(logits, [=](float logit) { return exp_of_negative(logit - highest); });
}

double entropy_of(std::span<const float> logits, float highest, double mass) {
  // -sum p ln p, where p = e^x / mass: ln mass - sum e^x x / mass. Masked tokens add 0 times something finite.
  const double mean = sum_of(logits, [=](float logit) {
    const float x = logit - highest;
    return exp_of_negative(x) * (x > std::numeric_limits<float>::lowest() ? x : std::numeric_limits<float>::lowest());
  });
  return std::log(mass) - mean / mass;
}

Candidates::Candidates(std::span<float> logits, std::vector<Candidate>& storage) : logits_(logits), list_(storage) {
  list_.clear();
}

size_t Candidates::size() const {
  if (!is_view_) return list_.size();
  return logits_.size() - static_cast<size_t>(std::ranges::count(logits_, -INFINITY));
}

std::vector<Candidate>& Candidates::list() {
  if (is_view_) {
    is_view_ = false;
    list_.clear();
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

const std::vector<Candidate>& Candidates::glance(float bound) {
  list_.clear();
  const float below = std::nextafter(bound, -INFINITY);
  for (size_t i = 0; i < logits_.size(); ++i) {
    while (i % kGroup == 0 && i + kGroup <= logits_.size() && !any_above(&logits_[i], below)) i += kGroup;
    if (i == logits_.size()) break;
    if (logits_[i] > below) list_.push_back({static_cast<int32_t>(i), logits_[i], 0.0f});
  }
  return list_;
}

void Candidates::keep_from(float bound, size_t n_least) {
  if (is_view_) {
    is_view_ = glance(bound).size() < n_least;
    if (is_view_) {
      list_.clear();
      select_top(n_least);
    }
    return;
  }
  const auto is_low = [&](const Candidate& c) { return c.logit < bound; };
  if (list_.size() - static_cast<size_t>(std::ranges::count_if(list_, is_low)) < n_least) return select_top(n_least);
  std::erase_if(list_, is_low);
  // Order is kept: a sorted front stays sorted.
  n_sorted_ = std::min(n_sorted_, list_.size());
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

void Candidates::softmax(float highest, double mass) {
  for (Candidate& c : list()) c.probability = static_cast<float>(std::exp(c.logit - highest) / mass);
}

}  // namespace halfbyte::sampling
