// Cuts matrices into pieces of a few thousand weights, each decoded, checked and encoded by one thread.
#include "quantize/requantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "quantize/compensate.h"
#include "quantize/encoders.h"

namespace halfbyte::quantize {

namespace {

constexpr int64_t kPieceWeights = 1 << 15;
// Weights between two calls of `advance`.
constexpr int64_t kStepWeights = 1 << 22;
// A column whose activations were never seen counts this much of the mean.
constexpr float kLeastImportance = 1e-4f;

void check(const Matrices& from, const formats::Format& to) {
  require(from.format != nullptr && from.n_rows >= 1 && from.n_cols >= 1, "No matrix to quantize.");
  require(from.n_cols % from.format->block_weights == 0 &&
              static_cast<int64_t>(from.bytes.size()) == from.n_rows * from.format->row_bytes(from.n_cols),
          "%zu bytes are not %lld rows of %lld weights of %s.", from.bytes.size(), static_cast<long long>(from.n_rows),
          static_cast<long long>(from.n_cols), std::string(from.format->name).c_str());
  require(can_encode(to), "%s has no encoder.", std::string(to.name).c_str());
  require(from.n_cols % to.block_weights == 0, "Rows of %lld weights are no whole blocks of %s (%d weights each).",
          static_cast<long long>(from.n_cols), std::string(to.name).c_str(), to.block_weights);
  const auto n = static_cast<int64_t>(from.importance.size());
  require(n % from.n_cols == 0 && (n == 0 || from.n_rows % (n / from.n_cols) == 0),
          "The importance must hold one number a column (%lld) of each matrix; it holds %lld.",
          static_cast<long long>(from.n_cols), static_cast<long long>(n));
  const auto n_means = static_cast<int64_t>(from.mean_inputs.size());
  require(n_means == 0 || n_means == n, "The mean inputs must be as many as the importance (%lld); they are %lld.",
          static_cast<long long>(n), static_cast<long long>(n_means));
}

// Importance scaled to a mean of 1 a matrix, and the mean inputs with it; empty where there is none.
std::vector<float> scaled_importance(const Matrices& from, std::vector<Inputs>& inputs) {
  std::vector<float> out(from.importance.begin(), from.importance.end());
  for (size_t first = 0; first < out.size(); first += static_cast<size_t>(from.n_cols)) {
    const std::span<float> slice(out.data() + first, static_cast<size_t>(from.n_cols));
    double sum = 0.0;
    for (const float each : slice) {
      require(each >= 0.0f && std::isfinite(each), "Importance must be finite and not negative; found %g.",
              static_cast<double>(each));
      sum += each;
    }
    const double mean = sum / static_cast<double>(slice.size());
    for (float& each : slice) each = mean > 0.0 ? std::max(static_cast<float>(each / mean), kLeastImportance) : 1.0f;
    if (from.mean_inputs.empty()) continue;
    std::vector<float> mean_inputs(slice.size());
    for (size_t i = 0; i < slice.size() && mean > 0.0; ++i) {
      const float value = from.mean_inputs[first + i];
      require(std::isfinite(value), "Mean inputs must be finite; found %g.", static_cast<double>(value));
      mean_inputs[i] = static_cast<float>(value / std::sqrt(mean));
    }
    inputs.emplace_back(slice, mean_inputs);
  }
  return out;
}

// Decodes and encodes, row by row, with the importance that belongs to a row.
class Codec {
 public:
  explicit Codec(const Matrices& from)
      : from_(from),
        importance_(scaled_importance(from, inputs_)),
        rows_each_(importance_.empty() ? from.n_rows
                                       : from.n_rows / (static_cast<int64_t>(importance_.size()) / from.n_cols)) {}

  void decode(int64_t first_row, int64_t n_rows, float* weights) const {
    const int64_t row_bytes = from_.format->row_bytes(from_.n_cols), n = n_rows * from_.n_cols;
    from_.format->decode(from_.bytes.data() + first_row * row_bytes, weights, n / from_.format->block_weights);
    uint32_t flags = 0;  // the sum's highest bit is set where all eight bits of an exponent are
    for (int64_t i = 0; i < n; ++i) flags |= (std::bit_cast<uint32_t>(weights[i]) & 0x7fffffffu) + 0x00800000u;
    if (flags < 0x80000000u) return;
    for (int64_t i = 0; i < n; ++i) {
      if (std::isfinite(weights[i])) continue;
      throw Error(ErrorKind::format,
                  format_string("The weight in row %lld, column %lld is %g.",
                                static_cast<long long>(first_row + i / from_.n_cols),
                                static_cast<long long>(i % from_.n_cols), static_cast<double>(weights[i])),
                  "The model is damaged; fetch or convert it again.");
    }
  }
  // Rows of one matrix, from `row` on.
  void encode(const formats::Format& to, const float* weights, int64_t row, int64_t n_rows, std::byte* out) const {
    if (inputs_.empty() || to.block_weights == 1)
      encode_rows(to, weights, n_rows, from_.n_cols, importance(row), out);
    else
      encode_compensated(to, weights, n_rows, inputs_[static_cast<size_t>(row / rows_each_)], out);
  }
  // What encoding minimizes, of a row's differences.
  double error_of(int64_t row, const float* difference) const {
    if (!inputs_.empty()) return inputs_[static_cast<size_t>(row / rows_each_)].error_of(difference);
    const float* weight = importance(row);
    double sum = 0.0;
    for (int64_t i = 0; i < from_.n_cols; ++i) {
      const double e = difference[i];
      sum += (weight == nullptr ? 1.0 : static_cast<double>(weight[i])) * e * e;
    }
    return sum;
  }
  // Rows of a piece: about kPieceWeights.
  int64_t piece_rows() const { return std::max(inputs_.empty() ? 1 : kCompensatedRows, kPieceWeights / from_.n_cols); }
  // The end of the piece that starts at `row`: within one matrix.
  int64_t piece_end(int64_t row, int64_t end) const {
    return std::min({end, row + piece_rows(), (row / rows_each_ + 1) * rows_each_});
  }

 private:
  const float* importance(int64_t row) const {
    return importance_.empty() ? nullptr : importance_.data() + row / rows_each_ * from_.n_cols;
  }

  const Matrices& from_;
  std::vector<Inputs> inputs_;  // of each matrix
  std::vector<float> importance_;
  int64_t rows_each_;
};

}  // namespace

void requantize(const Matrices& from, const formats::Format& to, std::span<std::byte> out, ThreadPool& pool,
                FunctionRef<bool(int64_t rows_done)> advance) {
  check(from, to);
  const int64_t row_bytes = to.row_bytes(from.n_cols);
  require(static_cast<int64_t>(out.size()) == from.n_rows * row_bytes, "The output takes %lld bytes, not %zu.",
          static_cast<long long>(from.n_rows * row_bytes), out.size());
  const Codec codec(from);
  const int64_t step = std::max<int64_t>(pool.size(), kStepWeights / from.n_cols);
  const int64_t piece = codec.piece_rows() * from.n_cols;
  std::vector<float> decoded(static_cast<size_t>(pool.size() * piece));  // a piece a thread
  for (int64_t done = 0; done < from.n_rows; done += step) {
    const int64_t rows = std::min(step, from.n_rows - done);
    pool.parallel_for(rows, codec.piece_rows(), [&](int64_t begin, int64_t end, int worker) {
      float* weights = decoded.data() + worker * piece;
      for (int64_t row = done + begin, next; row < done + end; row = next) {
        next = codec.piece_end(row, done + end);
        codec.decode(row, next - row, weights);
        codec.encode(to, weights, row, next - row, out.data() + row * row_bytes);
      }
    });
    if (!advance(done + rows)) throw Error(ErrorKind::cancelled, "Quantizing was stopped.");
  }
}

Loss measure_loss(const Matrices& from, const formats::Format& to, int64_t max_rows, ThreadPool& pool) {
  check(from, to);
  const Codec codec(from);
  const int64_t n_rows = std::clamp<int64_t>(max_rows, 1, from.n_rows);
  std::vector<Loss> rows(static_cast<size_t>(n_rows));
  // A tile holds sixteen blocks, often of several rows: neighbours are encoded together.
  const int64_t run = std::min<int64_t>(16, n_rows);
  pool.parallel_for(n_rows, run, [&](int64_t begin, int64_t end, int) {
    const auto n = static_cast<size_t>(from.n_cols);
    std::vector<float> weights(n * static_cast<size_t>(run)), decoded(weights.size());
    std::vector<std::byte> blocks(static_cast<size_t>(run * to.row_bytes(from.n_cols)));
    for (int64_t first = begin, next; first < end; first = next) {
      const int64_t row = first / run * run * from.n_rows / n_rows + first % run;
      next = std::min({end, (first / run + 1) * run, first + codec.piece_end(row, from.n_rows) - row});
      const int64_t count = std::min(next - first, from.n_rows - row);
      codec.decode(row, count, weights.data());
      codec.encode(to, weights.data(), row, count, blocks.data());
      to.decode(blocks.data(), decoded.data(), count * from.n_cols / to.block_weights);
      for (int64_t i = 0; i < count; ++i) {
        Loss& loss = rows[static_cast<size_t>(first + i)];
        const float* row_weights = weights.data() + static_cast<size_t>(i) * n;
        float* rest = decoded.data() + static_cast<size_t>(i) * n;
        for (size_t c = 0; c < n; ++c) rest[c] -= row_weights[c];
        loss.error += codec.error_of(row + i, rest);
        loss.energy += codec.error_of(row + i, row_weights);
      }
    }
  });
  Loss sum;
  for (const Loss& row : rows) {
    sum.error += row.error;
    sum.energy += row.energy;
  }
  return sum;
}

}  // namespace halfbyte::quantize
