// Metadata of one architecture, checked as it is read.
#include "model/metadata_reader.h"

#include <cmath>

#include "base/error.h"

namespace halfbyte::model {

int64_t MetadataReader::number(const char* key, int64_t low, int64_t high) const {
  const auto value = source_.metadata().get_int(prefix_ + key);
  if (!value) {
    throw Error(ErrorKind::format, source_.path() + ": metadata key " + prefix_ + key + " is missing.",
                "The file is no complete model; convert or fetch it again.");
  }
  check(key, *value, low, high);
  return *value;
}

int64_t MetadataReader::number_or(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  return has(key) ? number(key, low, high) : fallback;
}

int MetadataReader::count(const char* key, int64_t fallback, int low, int high) const {
  const int64_t value = number_or(key, fallback, low, high);
  check(key, value, low, high);
  return static_cast<int>(value);
}

double MetadataReader::real_or(const char* key, double fallback) const {
  const double value = source_.metadata().get_float(prefix_ + key).value_or(fallback);
  if (!std::isfinite(value))
    throw Error(ErrorKind::format, source_.path() + ": metadata key " + prefix_ + key + " is not a finite number.");
  return value;
}

double MetadataReader::positive_or(const char* key, double fallback) const {
  const double value = real_or(key, fallback);
  if (value <= 0)
    throw Error(ErrorKind::format, format_string("%s: metadata key %s%s is %g; a positive number was expected.",
                                                 source_.path().c_str(), prefix_.c_str(), key, value));
  return value;
}

bool MetadataReader::flag_or(const char* key, bool fallback) const {
  return source_.metadata().get_bool(prefix_ + key).value_or(fallback);
}

std::string MetadataReader::text_or(const char* key, std::string fallback) const {
  return source_.metadata().get_string(prefix_ + key).value_or(std::move(fallback));
}

std::vector<int64_t> MetadataReader::per_layer(const char* key, std::vector<int64_t> fallback, int64_t n_layers,
                                               int64_t low, int64_t high) const {
  std::vector<int64_t> values = source_.metadata().get_ints(prefix_ + key).value_or(std::move(fallback));
  if (values.empty()) number(key, low, high);  // throws: missing
  if (values.size() == 1) values.assign(static_cast<size_t>(n_layers), values[0]);
  if (static_cast<int64_t>(values.size()) != n_layers) {
    throw Error(ErrorKind::format, format_string("%s: metadata key %s%s holds %zu numbers; the model has %lld layers.",
                                                 source_.path().c_str(), prefix_.c_str(), key, values.size(),
                                                 static_cast<long long>(n_layers)));
  }
  for (const int64_t value : values) check(key, value, low, high);
  return values;
}

void MetadataReader::check(const char* key, int64_t value, int64_t low, int64_t high) const {
  if (value >= low && value <= high) return;
  throw Error(ErrorKind::format,
              format_string("%s: metadata key %s%s is %lld; %lld to %lld were expected.", source_.path().c_str(),
                            prefix_.c_str(), key, static_cast<long long>(value), static_cast<long long>(low),
                            static_cast<long long>(high)));
}

}  // namespace halfbyte::model
