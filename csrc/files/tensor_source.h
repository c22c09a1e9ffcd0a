// What every model file becomes: typed metadata and checked views of tensors. Nothing past this room knows a file
// format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/format.h"

namespace halfbyte::files {

struct MetaArray;

// A metadata value. Signed and unsigned integers of all widths are widened to 64 bits, floats to double.
using MetaValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::shared_ptr<const MetaArray>>;

// A homogeneous array. Exactly one vector is filled: the one that `type` names.
struct MetaArray {
  enum class Type { boolean, integer, unsigned_integer, real, text, array } type = Type::integer;
  std::vector<uint8_t> booleans;
  std::vector<int64_t> integers;
  std::vector<uint64_t> unsigned_integers;
  std::vector<double> reals;
  std::vector<std::string> texts;
  std::vector<std::shared_ptr<const MetaArray>> arrays;
  size_t size() const;
};

// Key -> value, with getters that name the key, the type found and the type wanted when they throw (ErrorKind::format).
class Metadata {
 public:
  std::map<std::string, MetaValue, std::less<>> values;

  bool has(std::string_view key) const { return values.find(key) != values.end(); }
  // nullptr when missing.
  const MetaValue* find(std::string_view key) const;

  // Numbers convert between integer kinds and to float when the value is exact; a string is never converted.
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  // Also accept a scalar as an array of one (llama.cpp writes per-layer values either way).
  std::optional<std::vector<int64_t>> get_ints(std::string_view key) const;
  std::optional<std::vector<double>> get_floats(std::string_view key) const;

  void erase_vocabulary();  // the arrays under tokenizer.ggml.
};

// A tensor inside a mapped file. shape[0] is the contiguous axis (GGUF order): a matrix is {n_cols, n_rows}.
struct TensorView {
  std::string name;
  const formats::Format* format = nullptr;
  std::vector<int64_t> shape;        // 1 to 4 axes, each >= 1
  std::span<const std::byte> bytes;  // exactly what shape and format need; valid while the source lives (a source that
                                     // makes tensors late fills it in find())

  int64_t n_cols() const { return shape.empty() ? 1 : shape[0]; }
  int64_t n_rows() const;  // product of the other axes
  int64_t n_weights() const { return n_cols() * n_rows(); }
  int64_t n_bytes() const { return n_weights() / format->block_weights * format->block_bytes; }
};

// A model file (or set of files) open for reading. Thread-safe for reading. Keeps its mappings until destroyed.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const Metadata& metadata() const = 0;
  virtual std::span<const TensorView> tensors() const = 0;  // file order
  virtual const TensorView* find(std::string_view name) const = 0;
  virtual std::string path() const = 0;  // the (first) file, for messages
  // Tells the system that a tensor's file pages are no longer needed (after packing). Only advice.
  virtual void release_pages(const TensorView& tensor) const {}
  // Forgets the metadata's lists of tokens, scores and merges. Not while others read the metadata.
  virtual void release_vocabulary() = 0;
};

// Opens a GGUF file (v2, v3), following -00001-of-0000N splits. Throws Error(format | unsupported | io).
std::unique_ptr<TensorSource> open_gguf(const std::string& path);

}  // namespace halfbyte::files
