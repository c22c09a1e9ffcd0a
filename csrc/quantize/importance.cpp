// Runs chunks through a decoder of its own and sums in f32 over a batch's rows, in double over batches.
#include "quantize/importance.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace halfbyte::quantize {

namespace {

constexpr int64_t kBatchRows = 256;

int32_t blocks_for(int64_t n_ctx) {
  require(n_ctx >= 1 && n_ctx <= 1 << 24, "Texts of %lld tokens; 1 to 16777216 are allowed.",
          static_cast<long long>(n_ctx));
  return static_cast<int32_t>((n_ctx + ops::kKvBlockTokens - 1) / ops::kKvBlockTokens);
}

int32_t n_groups(const model::Decoder& decoder) {
  return static_cast<int32_t>(decoder.kv_groups().n_groups());
}

}  // namespace

ImportanceCollector::ImportanceCollector(std::shared_ptr<const model::Weights> weights, int n_threads, int64_t n_ctx)
    : weights_(std::move(weights)),
      decoder_(weights_, n_threads, kBatchRows, kBatchRows, n_ctx),
      kv_(decoder_.make_kv(ops::KvType::f16, ops::KvType::f16, blocks_for(n_ctx) * n_groups(decoder_))),
      block_tables_(static_cast<size_t>(n_groups(decoder_))) {
  for (size_t g = 0; g < block_tables_.size(); ++g) {
    block_tables_[g].resize(static_cast<size_t>(blocks_for(n_ctx)));
    std::iota(block_tables_[g].begin(), block_tables_[g].end(), static_cast<int32_t>(g) * blocks_for(n_ctx));
  }
  decoder_.set_observer(this);
}

void ImportanceCollector::add(const std::vector<int32_t>& tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  require(n >= 1 && n <= static_cast<int64_t>(block_tables_.front().size()) * ops::kKvBlockTokens,
          "A text of %lld tokens.", static_cast<long long>(n));
  for (int64_t first = 0; first < n; first += kBatchRows) {
    const int64_t count = std::min(kBatchRows, n - first);
    model::Batch batch;
    batch.add_rows(std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), first,
                   ops::Role::prefill, block_tables_);
    // What enters the output matrix is the hidden states; computing the logits would be waste.
    model::want_last(batch, count, batch.hidden_rows);
    observe(weights_->output, decoder_.forward(batch, kv_).hidden.data(), decoder_.config().n_embd, count);
  }
}

void ImportanceCollector::observe(const ops::Matrix& weight, const float* x, int64_t stride, int64_t n_rows) {
  const std::vector<int32_t> first(static_cast<size_t>(n_rows));
  observe_experts(weight, x, stride, first, 1);
}

void ImportanceCollector::observe_experts(const ops::Matrix& stack, const float* x, int64_t stride,
                                          std::span<const int32_t> experts, int rows_each) {
  const auto n_cols = static_cast<size_t>(stack.n_cols), n_matrices = static_cast<size_t>(stack.n_matrices);
  squares_.assign(n_matrices * n_cols, 0.0f);
  values_.assign(n_matrices * n_cols, 0.0f);
  ColumnSums& sums = sums_[stack.name];
  sums.squares.resize(n_matrices * n_cols);
  sums.values.resize(n_matrices * n_cols);
  sums.n_rows.resize(n_matrices);
  for (size_t slot = 0; slot < experts.size(); ++slot) {
    const float* values = x + static_cast<int64_t>(slot) / rows_each * stride;
    const auto expert = static_cast<size_t>(experts[slot]);
    for (size_t i = 0; i < n_cols; ++i) {
      squares_[expert * n_cols + i] += values[i] * values[i];
      values_[expert * n_cols + i] += values[i];
    }
    ++sums.n_rows[expert];
  }
  for (size_t i = 0; i < squares_.size(); ++i) {
    sums.squares[i] += squares_[i];
    sums.values[i] += values_[i];
  }
}

}  // namespace halfbyte::quantize
