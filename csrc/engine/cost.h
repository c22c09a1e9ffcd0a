// Learns what a step costs, to decide how many prompt rows and drafts fit beside running streams.
#pragma once

#include <array>
#include <cstdint>

namespace halfbyte::engine {

// Pure: seconds come in as numbers. Estimates only steer how work is cut into steps, which changes no result.
class StepCost {
 public:
  // A step with so many prompt and stream rows (drafts are stream rows) took so long.
  void observe(int64_t n_prompt_rows, int64_t n_stream_rows, double seconds);

  // Seconds of a step of n stream rows; 0 while nothing is known.
  double stream_seconds(int64_t n_rows) const;
  // Seconds that one more stream row adds.
  double stream_row_seconds() const;
  // Seconds that n prompt rows add to a step; 0 while nothing is known.
  double prompt_seconds(int64_t n_rows) const;

  // The most prompt rows that take no longer than `seconds`, within [kFewestRows, most].
  int64_t prompt_rows_within(double seconds, int64_t most) const;
  // Prompt rows beside n stream rows so that streams keep at least half their pace, and prompts theirs.
  int64_t prompt_rows_beside(int64_t n_stream_rows, int64_t most) const;

  static constexpr int64_t kFewestRows = 8;

 private:
  static constexpr int kBuckets = 17;  // prompt rows by power of two

  // Decayed sums of a least-squares line through (stream rows, seconds).
  double weight_ = 0, rows_ = 0, rows_squared_ = 0, seconds_ = 0, rows_seconds_ = 0;
  std::array<double, kBuckets> prompt_row_seconds_{};  // 0: not seen
};

}  // namespace halfbyte::engine
