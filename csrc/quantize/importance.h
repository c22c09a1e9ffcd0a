// Collects what importance matrices are made of: squares and sums of what enters each matrix while a model reads text.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cache/block_tables.h"
#include "model/decoder.h"

namespace halfbyte::quantize {

// Of one tensor: sums over the inputs of each column, and over how many rows; both for each matrix of a stack.
struct ColumnSums {
  std::vector<double> squares, values;  // (n_matrices, n_cols)
  std::vector<int64_t> n_rows;          // (n_matrices)
};

class ImportanceCollector : private model::LinearObserver {
 public:
  // n_ctx: the longest text that add() takes. Throws Error(invalid_argument).
  ImportanceCollector(std::shared_ptr<const model::Weights> weights, int n_threads, int64_t n_ctx);

  // Reads a text of its own: 1 to n_ctx tokens.
  void add(const std::vector<int32_t>& tokens);

  // Tensor name -> what was seen so far; the output matrix under its tensor's name.
  const std::map<std::string, ColumnSums>& sums() const { return sums_; }

 private:
  void observe(const ops::Matrix& weight, const float* x, int64_t stride, int64_t n_rows) override;
  void observe_experts(const ops::Matrix& stack, const float* x, int64_t stride, std::span<const int32_t> experts,
                       int rows_each) override;

  std::shared_ptr<const model::Weights> weights_;
  model::Decoder decoder_;
  cache::KvStore kv_;
  cache::BlockTables block_tables_;
  std::vector<float> squares_, values_;  // of a batch
  std::map<std::string, ColumnSums> sums_;
};

}  // namespace halfbyte::quantize
