// Sixteen rows at once, block by block: every block is encoded shifted against what its row has erred along the mean so
// far; then each once more against what all others err, and kept where that is better.
#include "quantize/compensate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantize/encoders.h"

namespace halfbyte::quantize {

namespace {

// A column's inputs vary at least by this much of their mean square.
constexpr float kLeastSpread = 0.05f;
// How far a weight may move, in terms of its block's mean magnitude: columns whose inputs hardly vary would take all of
// an error on themselves, and a block with one large weight among small ones is coded badly.
constexpr double kFarthest = 0.25;

// A block of columns: where it begins, and sum mean^2 / spread over it and over it and all that follow.
struct Section {
  int64_t first;
  double own = 0.0, to_end = 0.0;
};

class Compensation {
 public:
  Compensation(const formats::Format& format, const Inputs& inputs)
      : format_(format), inputs_(inputs), width_(format.block_weights), n_cols_(std::ssize(inputs.mean)) {
    for (int64_t first = 0; first < n_cols_; first += width_) {
      Section& section = sections_.emplace_back(Section{first});
      for (int64_t i = first; i < first + width_; ++i)
        section.own += static_cast<double>(inputs.mean[at(i)]) * static_cast<double>(inputs.answer[at(i)]);
    }
    double rest = 0.0;
    for (auto section = sections_.rbegin(); section != sections_.rend(); ++section)
      section->to_end = rest += section->own;
    const auto block = static_cast<size_t>(kCompensatedRows * width_);
    shifted_.resize(block);
    decoded_.resize(block);
    blocks_.resize(static_cast<size_t>(kCompensatedRows * format.block_bytes));
    along_.resize(sections_.size() * kCompensatedRows);
    error_.resize(along_.size());
  }

  // At most kCompensatedRows rows.
  void encode(const float* weights, int64_t n_rows, std::byte* out) {
    double along[kCompensatedRows] = {};  // sum mean * error of each row
    for (size_t b = 0; b < sections_.size(); ++b) {
      // What follows takes its share too.
      encode_block(sections_[b], sections_[b].to_end, weights, n_rows, along);
      for (int64_t row = 0; row < n_rows; ++row) {
        const Found found = examine(sections_[b], weights, row);
        along[row] += found.along;
        keep(b, row, found, out);
      }
    }
    for (size_t b = 0; b < sections_.size(); ++b) {
      double others[kCompensatedRows];
      for (int64_t row = 0; row < n_rows; ++row) others[row] = along[row] - along_[slot(b, row)];
      encode_block(sections_[b], sections_[b].own, weights, n_rows, others);
      for (int64_t row = 0; row < n_rows; ++row) {
        const Found found = examine(sections_[b], weights, row);
        const double now = others[row] + found.along;
        if (!(found.error + now * now < error_[slot(b, row)] + along[row] * along[row])) continue;
        along[row] = now;
        keep(b, row, found, out);
      }
    }
  }

 private:
  struct Found {
    double error = 0.0, along = 0.0;  // sum spread * e^2, sum mean * e
  };

  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  static size_t slot(size_t block, int64_t row) { return block * kCompensatedRows + static_cast<size_t>(row); }

  // Encodes the section of each row with the weights moved so that they take back `along`; `takers`: sum mean * answer
  // of all that does.
  void encode_block(const Section& section, double takers, const float* weights, int64_t n_rows, const double* along) {
    for (int64_t row = 0; row < n_rows; ++row) {
      const auto share = static_cast<float>(along[row] / (1.0 + takers));
      const float* from = weights + row * n_cols_ + section.first;
      const float* answer = inputs_.answer.data() + section.first;
      float* to = shifted_.data() + row * width_;
      double size = 0.0;
      for (int64_t i = 0; i < width_; ++i) size += std::abs(static_cast<double>(from[i]));
      const auto limit = static_cast<float>(kFarthest * size / static_cast<double>(width_));
      for (int64_t i = 0; i < width_; ++i) {
        const float moved = from[i] - std::clamp(share * answer[i], -limit, limit);
        to[i] = std::isfinite(moved) ? moved : from[i];
      }
    }
    encode_rows(format_, shifted_.data(), n_rows, width_, inputs_.square.data() + section.first, blocks_.data());
    format_.decode(blocks_.data(), decoded_.data(), n_rows);
  }

  Found examine(const Section& section, const float* weights, int64_t row) const {
    Found found;
    const float *from = weights + row * n_cols_ + section.first, *decoded = decoded_.data() + row * width_;
    for (int64_t i = 0; i < width_; ++i) {
      const double e = decoded[i] - from[i];
      found.error += static_cast<double>(inputs_.spread[at(section.first + i)]) * e * e;
      found.along += static_cast<double>(inputs_.mean[at(section.first + i)]) * e;
    }
    return found;
  }

  void keep(size_t block, int64_t row, const Found& found, std::byte* out) {
    const auto n = static_cast<int64_t>(format_.block_bytes);
    std::memcpy(out + (row * std::ssize(sections_) + static_cast<int64_t>(block)) * n, blocks_.data() + row * n,
                static_cast<size_t>(n));
    along_[slot(block, row)] = found.along;
    error_[slot(block, row)] = found.error;
  }

  const formats::Format& format_;
  const Inputs& inputs_;
  int64_t width_, n_cols_;
  std::vector<Section> sections_;
  std::vector<float> shifted_, decoded_;
  std::vector<std::byte> blocks_;
  std::vector<double> along_, error_;  // of each block of each row
};

}  // namespace

Inputs::Inputs(std::span<const float> squares, std::span<const float> means)
    : square(squares.begin(), squares.end()),
      mean(means.begin(), means.end()),
      spread(squares.size()),
      answer(squares.size()) {
  for (size_t i = 0; i < square.size(); ++i) {
    const float most = std::sqrt(square[i]);
    mean[i] = std::clamp(mean[i], -most, most);
    spread[i] = std::max(square[i] - mean[i] * mean[i], kLeastSpread * square[i]);
    answer[i] = mean[i] / spread[i];
  }
}

double Inputs::error_of(const float* difference) const {
  double around = 0.0, along = 0.0;
  for (size_t i = 0; i < mean.size(); ++i) {
    const double e = difference[i];
    around += static_cast<double>(spread[i]) * e * e;
    along += static_cast<double>(mean[i]) * e;
  }
  return around + along * along;
}

void encode_compensated(const formats::Format& format, const float* weights, int64_t n_rows, const Inputs& inputs,
                        std::byte* out) {
  Compensation compensation(format, inputs);
  const int64_t n_cols = std::ssize(inputs.mean);
  for (int64_t row = 0; row < n_rows; row += kCompensatedRows)
    compensation.encode(weights + row * n_cols, std::min(kCompensatedRows, n_rows - row),
                        out + row * format.row_bytes(n_cols));
}

}  // namespace halfbyte::quantize
