// Reads a model's numbers from metadata, checked: every key is that of the file's architecture, without its prefix.
#pragma once

#include <string>
#include <vector>

#include "files/tensor_source.h"

namespace halfbyte::model {

// No model comes near these; a file that claims more is damaged or hostile.
inline constexpr int64_t kMaxLayers = 2048, kMaxWidth = int64_t{1} << 20, kMaxHeads = 4096, kMaxHeadDim = 4096,
                         kMaxContext = int64_t{1} << 30, kMaxExperts = 4096;

// Every function throws format, naming file and key, where what it found is not what was allowed.
class MetadataReader {
 public:
  // Keys are those that begin with `arch` and a point. source must outlive the reader.
  MetadataReader(const files::TensorSource& source, const std::string& arch) : source_(source), prefix_(arch + ".") {}

  const files::TensorSource& source() const { return source_; }
  bool has(const char* key) const { return source_.metadata().has(prefix_ + key); }

  int64_t number(const char* key, int64_t low, int64_t high) const;  // must be there, low to high
  int64_t number_or(const char* key, int64_t fallback, int64_t low, int64_t high) const;
  // The like for an int; the fallback, which may come from the file too, is checked as well.
  int count(const char* key, int64_t fallback, int low, int high) const;
  double real_or(const char* key, double fallback) const;      // finite
  double positive_or(const char* key, double fallback) const;  // finite and more than nothing
  bool flag_or(const char* key, bool fallback) const;
  std::string text_or(const char* key, std::string fallback) const;
  // One number for all layers, or one for each.
  std::vector<int64_t> per_layer(const char* key, std::vector<int64_t> fallback, int64_t n_layers, int64_t low,
                                 int64_t high) const;

 private:
  void check(const char* key, int64_t value, int64_t low, int64_t high) const;

  const files::TensorSource& source_;
  std::string prefix_;
};

}  // namespace halfbyte::model
