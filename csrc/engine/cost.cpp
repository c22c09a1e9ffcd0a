// A line for streams, a table for prompts: a short chunk costs more a row than a long one.
#include "engine/cost.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace halfbyte::engine {

namespace {

constexpr double kDecay = 0.98;     // a step's weight after each later one
constexpr double kLearn = 0.25;     // share of a new observation in the prompt table
constexpr double kRowShare = 0.15;  // of a one-row step, assumed for another row until widths have varied
constexpr double kSurprise = 2.0;   // a step that took longer than so many times the expected was disturbed
constexpr int64_t kFirstRows = 32;  // prompt rows of the first mixed step
constexpr double kSlowdown = 1.8;   // of streams beside prompts; below 2 to leave room for error

int bucket_of(int64_t n_rows) {
  return std::bit_width(static_cast<uint64_t>(n_rows)) - 1;
}

}  // namespace

void StepCost::observe(int64_t n_prompt_rows, int64_t n_stream_rows, double seconds) {
  if (n_prompt_rows == 0) {
    const auto n = static_cast<double>(n_stream_rows);
    if (weight_ > 5) seconds = std::min(seconds, kSurprise * stream_seconds(n_stream_rows));
    weight_ = weight_ * kDecay + 1;
    rows_ = rows_ * kDecay + n;
    rows_squared_ = rows_squared_ * kDecay + n * n;
    seconds_ = seconds_ * kDecay + seconds;
    rows_seconds_ = rows_seconds_ * kDecay + n * seconds;
    return;
  }
  if (n_stream_rows > 0 && weight_ == 0) return;  // what is the streams' share?
  const double row = std::max(0.0, seconds - stream_seconds(n_stream_rows)) / static_cast<double>(n_prompt_rows);
  double& known = prompt_row_seconds_[static_cast<size_t>(std::min(kBuckets - 1, bucket_of(n_prompt_rows)))];
  known = known == 0 ? row : known + kLearn * (std::min(row, kSurprise * known) - known);
}

double StepCost::stream_row_seconds() const {
  if (weight_ == 0) return 0;
  const double mean_rows = rows_ / weight_, mean_seconds = seconds_ / weight_;
  const double variance = rows_squared_ / weight_ - mean_rows * mean_rows;
  const double covariance = rows_seconds_ / weight_ - mean_rows * mean_seconds;
  const double assumed = kRowShare * mean_seconds / (1 + kRowShare * (mean_rows - 1));
  if (variance < 0.01) return assumed;
  return std::clamp(covariance / variance, 0.01 * mean_seconds / mean_rows, mean_seconds / mean_rows);
}

double StepCost::stream_seconds(int64_t n_rows) const {
  if (weight_ == 0 || n_rows <= 0) return 0;
  return seconds_ / weight_ + (static_cast<double>(n_rows) - rows_ / weight_) * stream_row_seconds();
}

double StepCost::prompt_seconds(int64_t n_rows) const {
  // The nearest width that was seen; of two the narrower, which is dearer a row.
  const int wanted = std::min(kBuckets - 1, bucket_of(std::max<int64_t>(1, n_rows)));
  int nearest = -1;
  for (int b = 0; b < kBuckets; ++b) {
    if (prompt_row_seconds_[static_cast<size_t>(b)] > 0 &&
        (nearest < 0 || std::abs(b - wanted) < std::abs(nearest - wanted)))
      nearest = b;
  }
  return nearest < 0 ? 0 : prompt_row_seconds_[static_cast<size_t>(nearest)] * static_cast<double>(n_rows);
}

int64_t StepCost::prompt_rows_within(double seconds, int64_t most) const {
  int64_t n = most;
  while (n > kFewestRows && prompt_seconds(n) > seconds) n = n * 7 / 8;
  return std::min(most, std::max(n, kFewestRows));
}

int64_t StepCost::prompt_rows_beside(int64_t n_stream_rows, int64_t most) const {
  const double seconds = stream_seconds(n_stream_rows);
  if (seconds == 0 || prompt_seconds(kFirstRows) == 0) return std::min(most, kFirstRows);
  return prompt_rows_within((kSlowdown - 1) * seconds, most);
}

}  // namespace halfbyte::engine
