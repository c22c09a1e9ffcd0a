// Typed access to metadata, with conversions only where nothing is lost.
#include "files/tensor_source.h"

#include <cmath>
#include <limits>

#include "base/error.h"

namespace halfbyte::files {

namespace {

const char* type_name(const MetaValue& value) {
  static constexpr const char* kNames[] = {"bool", "integer", "unsigned integer", "float", "string", "array"};
  return kNames[value.index()];
}

[[noreturn]] void wrong_type(std::string_view key, const MetaValue& found, const char* wanted) {
  throw Error(ErrorKind::format, format_string("Metadata key %.*s is of type %s; %s was expected.",
                                               static_cast<int>(key.size()), key.data(), type_name(found), wanted));
}

std::optional<int64_t> as_int(const MetaValue& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(&value)) {
    if (*u <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return static_cast<int64_t>(*u);
  }
  if (const auto* d = std::get_if<double>(&value)) {
    if (*d == std::floor(*d) && std::fabs(*d) < 0x1p53) return static_cast<int64_t>(*d);
  }
  return std::nullopt;
}

std::optional<double> as_float(const MetaValue& value) {
  if (const auto* d = std::get_if<double>(&value)) return *d;
  if (const auto i = as_int(value)) return static_cast<double>(*i);
  return std::nullopt;
}

}  // namespace

size_t MetaArray::size() const {
  switch (type) {
    case Type::boolean:
      return booleans.size();
    case Type::integer:
      return integers.size();
    case Type::unsigned_integer:
      return unsigned_integers.size();
    case Type::real:
      return reals.size();
    case Type::text:
      return texts.size();
    case Type::array:
      return arrays.size();
  }
  return 0;
}

const MetaValue* Metadata::find(std::string_view key) const {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

void Metadata::erase_vocabulary() {
  std::erase_if(values, [](const auto& entry) {
    return entry.first.starts_with("tokenizer.ggml.") &&
           std::holds_alternative<std::shared_ptr<const MetaArray>>(entry.second);
  });
}

std::optional<int64_t> Metadata::get_int(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto number = as_int(*value)) return number;
  wrong_type(key, *value, "an integer");
}

std::optional<double> Metadata::get_float(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto number = as_float(*value)) return number;
  wrong_type(key, *value, "a number");
}

std::optional<bool> Metadata::get_bool(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  if (const auto number = as_int(*value); number && (*number == 0 || *number == 1)) return *number == 1;
  wrong_type(key, *value, "true or false");
}

std::optional<std::string> Metadata::get_string(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  wrong_type(key, *value, "a string");
}

std::optional<std::vector<int64_t>> Metadata::get_ints(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto number = as_int(*value)) return std::vector<int64_t>{*number};
  if (const auto* array = std::get_if<std::shared_ptr<const MetaArray>>(value)) {
    const MetaArray& a = **array;
    std::vector<int64_t> numbers(a.integers);
    for (const uint64_t u : a.unsigned_integers) {
      if (u > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        wrong_type(key, *value, "integers below 2^63");
      numbers.push_back(static_cast<int64_t>(u));
    }
    for (const uint8_t b : a.booleans) numbers.push_back(b);
    if (numbers.size() == a.size()) return numbers;
  }
  wrong_type(key, *value, "an array of integers");
}

std::optional<std::vector<double>> Metadata::get_floats(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto number = as_float(*value)) return std::vector<double>{*number};
  if (const auto* array = std::get_if<std::shared_ptr<const MetaArray>>(value)) {
    const MetaArray& a = **array;
    std::vector<double> numbers(a.reals);
    for (const int64_t i : a.integers) numbers.push_back(static_cast<double>(i));
    for (const uint64_t u : a.unsigned_integers) numbers.push_back(static_cast<double>(u));
    if (numbers.size() == a.size()) return numbers;
  }
  wrong_type(key, *value, "an array of numbers");
}

int64_t TensorView::n_rows() const {
  int64_t rows = 1;
  for (size_t axis = 1; axis < shape.size(); ++axis) rows *= shape[axis];
  return rows;
}

}  // namespace halfbyte::files
