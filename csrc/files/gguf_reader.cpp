// The GGUF parser. Every count is checked against the bytes that remain before anything is allocated for it.
#include "files/gguf_reader.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "formats/registry.h"

namespace halfbyte::files {

namespace {

// Limits on what a file may claim. Real files stay far below them.
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr uint64_t kMaxNameBytes = 256;   // tensor names and keys are short
constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's own limit
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxAxes = 4;

// Value types of the specification.
enum class WireType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  [[noreturn]] void fail(const std::string& problem,
                         const char* hint = "The file is damaged or cut short; fetch it again.") const {
    throw Error(ErrorKind::format,
                format_string("%s: at offset %zu of %zu: %s.", name_.c_str(), offset_, bytes_.size(), problem.c_str()),
                hint);
  }

  // Room for n things of at least so many bytes each.
  void need(uint64_t n, const char* what, size_t least_bytes = 1) const {
    if (n <= remaining() / least_bytes) return;
    const auto count = static_cast<unsigned long long>(n);
    fail(least_bytes == 1 ? format_string("%s needs %llu bytes, but %zu remain", what, count, remaining())
                          : format_string("%s are %llu of at least %zu bytes each, but %zu bytes remain", what, count,
                                          least_bytes, remaining()));
  }

  template <class T>
  T read(const char* what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof value);
    offset_ += sizeof value;
    return value;
  }

  std::string read_string(const char* what, uint64_t limit) {
    const uint64_t length = read<uint64_t>(what);
    need(length, what);
    if (length > limit)
      fail(format_string("%s is %llu bytes long; at most %llu are allowed", what,
                         static_cast<unsigned long long>(length), static_cast<unsigned long long>(limit)));
    std::string text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
    offset_ += length;
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t offset_ = 0;
};

bool read_bool(Cursor& cursor, const std::string& key) {
  const uint8_t value = cursor.read<uint8_t>("a boolean");
  if (value > 1) cursor.fail("metadata key " + key + " holds a boolean that is neither 0 nor 1");
  return value == 1;
}

template <class Wire, class Out>
void read_numbers(Cursor& cursor, uint64_t n, std::vector<Out>& out) {
  cursor.need(n, "an array's elements", sizeof(Wire));
  out.reserve(n);
  for (uint64_t i = 0; i < n; ++i) out.push_back(static_cast<Out>(cursor.read<Wire>("an array element")));
}

std::shared_ptr<const MetaArray> read_array(Cursor& cursor, const std::string& key, int depth) {
  if (depth > kMaxArrayDepth)
    cursor.fail(format_string("metadata key %s nests arrays deeper than %d", key.c_str(), kMaxArrayDepth));
  auto array = std::make_shared<MetaArray>();
  const uint32_t type = cursor.read<uint32_t>("an array's type");
  const uint64_t n = cursor.read<uint64_t>("an array's length");
  using Type = MetaArray::Type;
  switch (static_cast<WireType>(type)) {
    case WireType::u8:
      array->type = Type::unsigned_integer;
      read_numbers<uint8_t>(cursor, n, array->unsigned_integers);
      break;
    case WireType::u16:
      array->type = Type::unsigned_integer;
      read_numbers<uint16_t>(cursor, n, array->unsigned_integers);
      break;
    case WireType::u32:
      array->type = Type::unsigned_integer;
      read_numbers<uint32_t>(cursor, n, array->unsigned_integers);
      break;
    case WireType::u64:
      array->type = Type::unsigned_integer;
      read_numbers<uint64_t>(cursor, n, array->unsigned_integers);
      break;
    case WireType::i8:
      array->type = Type::integer;
      read_numbers<int8_t>(cursor, n, array->integers);
      break;
    case WireType::i16:
      array->type = Type::integer;
      read_numbers<int16_t>(cursor, n, array->integers);
      break;
    case WireType::i32:
      array->type = Type::integer;
      read_numbers<int32_t>(cursor, n, array->integers);
      break;
    case WireType::i64:
      array->type = Type::integer;
      read_numbers<int64_t>(cursor, n, array->integers);
      break;
    case WireType::f32:
      array->type = Type::real;
      read_numbers<float>(cursor, n, array->reals);
      break;
    case WireType::f64:
      array->type = Type::real;
      read_numbers<double>(cursor, n, array->reals);
      break;
    case WireType::boolean:
      array->type = Type::boolean;
      cursor.need(n, "an array's elements");
      array->booleans.reserve(n);
      for (uint64_t i = 0; i < n; ++i) array->booleans.push_back(read_bool(cursor, key) ? 1 : 0);
      break;
    case WireType::string:
      array->type = Type::text;
      cursor.need(n, "an array's strings", 8);
      array->texts.reserve(n);
      for (uint64_t i = 0; i < n; ++i) array->texts.push_back(cursor.read_string("an array's string", UINT64_MAX));
      break;
    case WireType::array:
      array->type = Type::array;
      cursor.need(n, "an array's arrays", 12);
      for (uint64_t i = 0; i < n; ++i) array->arrays.push_back(read_array(cursor, key, depth + 1));
      break;
    default:
      cursor.fail(format_string("metadata key %s is an array of unknown type %u", key.c_str(), type));
  }
  return array;
}

MetaValue read_value(Cursor& cursor, const std::string& key) {
  const uint32_t type = cursor.read<uint32_t>("a metadata value's type");
  switch (static_cast<WireType>(type)) {
    case WireType::u8:
      return uint64_t{cursor.read<uint8_t>("a value")};
    case WireType::u16:
      return uint64_t{cursor.read<uint16_t>("a value")};
    case WireType::u32:
      return uint64_t{cursor.read<uint32_t>("a value")};
    case WireType::u64:
      return cursor.read<uint64_t>("a value");
    case WireType::i8:
      return int64_t{cursor.read<int8_t>("a value")};
    case WireType::i16:
      return int64_t{cursor.read<int16_t>("a value")};
    case WireType::i32:
      return int64_t{cursor.read<int32_t>("a value")};
    case WireType::i64:
      return cursor.read<int64_t>("a value");
    case WireType::f32:
      return double{cursor.read<float>("a value")};
    case WireType::f64:
      return cursor.read<double>("a value");
    case WireType::boolean:
      return read_bool(cursor, key);
    case WireType::string:
      return cursor.read_string("a metadata string", UINT64_MAX);
    case WireType::array:
      return read_array(cursor, key, 1);
  }
  cursor.fail(format_string("metadata key %s has unknown type %u", key.c_str(), type));
}

void check_magic(Cursor& cursor, std::span<const std::byte> bytes, const std::string& name) {
  static constexpr char kMagic[4] = {'G', 'G', 'U', 'F'};
  if (bytes.size() < 8 || std::memcmp(bytes.data(), kMagic, 4) != 0) {
    char found[3 * 4 + 1] = {};
    for (size_t i = 0; i < std::min<size_t>(4, bytes.size()); ++i) {
      std::snprintf(found + 3 * i, 4, "%02x ", static_cast<unsigned>(bytes[i]));
    }
    throw Error(ErrorKind::format,
                format_string("%s: not a GGUF file: it starts with %s, not with \"GGUF\".", name.c_str(), found),
                "Choose a .gguf file.");
  }
  (void)cursor.read<uint32_t>("the magic number");
}

uint32_t read_version(Cursor& cursor, const std::string& name) {
  const uint32_t version = cursor.read<uint32_t>("the version");
  if (version == 2 || version == 3) return version;
  if (version != 0 && (version & 0xffff) == 0) {
    throw Error(ErrorKind::unsupported, name + ": a big-endian GGUF file.",
                "Use the little-endian file of this model.");
  }
  throw Error(ErrorKind::unsupported,
              format_string("%s: GGUF version %u; versions 2 and 3 are read.", name.c_str(), version),
              version == 1 ? "Convert the model again with a current converter." : "A newer halfbyte may read it.");
}

TensorView read_tensor_info(Cursor& cursor, uint64_t& offset) {
  TensorView tensor;
  tensor.name = cursor.read_string("a tensor's name", kMaxNameBytes);
  for (const char c : tensor.name) {
    if (c < 0x20 || c > 0x7e)
      cursor.fail(format_string("a tensor's name has byte 0x%02x; names are printable ASCII", static_cast<uint8_t>(c)));
  }
  const char* name = tensor.name.c_str();
  const uint32_t n_axes = cursor.read<uint32_t>("a tensor's number of axes");
  if (n_axes < 1 || n_axes > kMaxAxes)
    cursor.fail(format_string("tensor %s has %u axes; 1 to %u are allowed", name, n_axes, kMaxAxes));
  int64_t n_weights = 1;
  for (uint32_t axis = 0; axis < n_axes; ++axis) {
    const uint64_t length = cursor.read<uint64_t>("a tensor's axis");
    if (length < 1 || length > INT64_MAX ||
        __builtin_mul_overflow(n_weights, static_cast<int64_t>(length), &n_weights)) {
      cursor.fail(
          format_string("tensor %s has axis %u of length %llu", name, axis, static_cast<unsigned long long>(length)));
    }
    tensor.shape.push_back(static_cast<int64_t>(length));
  }
  const uint32_t type = cursor.read<uint32_t>("a tensor's type");
  tensor.format = formats::find_format(type);
  if (tensor.format == nullptr) {
    throw Error(ErrorKind::unsupported,
                format_string("Tensor %s has type %u, which halfbyte does not know.", name, type),
                "It may be retired, or belong to another program's own formats; fetch the model in a standard type "
                "such as Q4_K_M.");
  }
  if (tensor.shape[0] % tensor.format->block_weights != 0) {
    cursor.fail(format_string("tensor %s has rows of %lld weights, not a multiple of the %d in a block of %s", name,
                              static_cast<long long>(tensor.shape[0]), tensor.format->block_weights,
                              std::string(tensor.format->name).c_str()));
  }
  offset = cursor.read<uint64_t>("a tensor's offset");
  return tensor;
}

// Gives each view its bytes; the tensors must lie inside the file, aligned, and must not overlap.
void place_tensors(std::span<const std::byte> bytes, const std::string& name, GgufContents& contents,
                   const std::vector<uint64_t>& offsets) {
  const uint64_t data_bytes = contents.data_offset <= bytes.size() ? bytes.size() - contents.data_offset : 0;
  std::vector<std::pair<uint64_t, size_t>> order;
  for (size_t i = 0; i < contents.tensors.size(); ++i) {
    TensorView& tensor = contents.tensors[i];
    const int64_t n_blocks = tensor.n_weights() / tensor.format->block_weights;
    int64_t n_bytes = 0;
    const bool overflow = __builtin_mul_overflow(n_blocks, static_cast<int64_t>(tensor.format->block_bytes), &n_bytes);
    if (overflow || offsets[i] > data_bytes || static_cast<uint64_t>(n_bytes) > data_bytes - offsets[i]) {
      throw Error(ErrorKind::format,
                  format_string("%s: tensor %s: %lld bytes at offset %llu lie past the end of the file (%zu bytes).",
                                name.c_str(), tensor.name.c_str(), static_cast<long long>(n_bytes),
                                static_cast<unsigned long long>(offsets[i] + contents.data_offset), bytes.size()),
                  "The file is cut short; fetch it again.");
    }
    if (offsets[i] % contents.alignment != 0) {
      throw Error(ErrorKind::format,
                  format_string("%s: tensor %s: offset %llu is not a multiple of the alignment %llu.", name.c_str(),
                                tensor.name.c_str(), static_cast<unsigned long long>(offsets[i]),
                                static_cast<unsigned long long>(contents.alignment)));
    }
    tensor.bytes = bytes.subspan(contents.data_offset + offsets[i], static_cast<size_t>(n_bytes));
    order.emplace_back(offsets[i], i);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorView& before = contents.tensors[order[i - 1].second];
    if (order[i - 1].first + before.bytes.size() > order[i].first) {
      throw Error(ErrorKind::format,
                  format_string("%s: tensors %s and %s overlap.", name.c_str(), before.name.c_str(),
                                contents.tensors[order[i].second].name.c_str()),
                  "The file is damaged; fetch it again.");
    }
  }
}

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name) {
  Cursor cursor(bytes, name);
  check_magic(cursor, bytes, name);
  GgufContents contents;
  contents.version = read_version(cursor, name);
  const uint64_t n_tensors = cursor.read<uint64_t>("the tensor count");
  const uint64_t n_keys = cursor.read<uint64_t>("the metadata count");
  // The smallest tensor entry takes 32 bytes (empty name, one axis), the smallest metadata entry 13.
  if (n_tensors > cursor.remaining() / 32)
    cursor.fail(format_string("the file claims %llu tensors", static_cast<unsigned long long>(n_tensors)));
  if (n_keys > cursor.remaining() / 13)
    cursor.fail(format_string("the file claims %llu metadata keys", static_cast<unsigned long long>(n_keys)));

  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string key = cursor.read_string("a metadata key", kMaxKeyBytes);
    MetaValue value = read_value(cursor, key);
    if (!contents.metadata.values.emplace(key, std::move(value)).second)
      cursor.fail("metadata key " + key + " appears twice");
  }
  if (const auto alignment = contents.metadata.get_int("general.alignment")) {
    if (*alignment < 1 || static_cast<uint64_t>(*alignment) > kMaxAlignment) {
      cursor.fail(format_string("general.alignment is %lld; 1 to %llu are allowed", static_cast<long long>(*alignment),
                                static_cast<unsigned long long>(kMaxAlignment)));
    }
    contents.alignment = static_cast<uint64_t>(*alignment);
  }

  std::vector<uint64_t> offsets;
  std::unordered_map<std::string_view, size_t> seen;
  contents.tensors.reserve(n_tensors);
  for (uint64_t i = 0; i < n_tensors; ++i) {
    uint64_t offset = 0;
    contents.tensors.push_back(read_tensor_info(cursor, offset));
    offsets.push_back(offset);
    if (!seen.emplace(contents.tensors.back().name, i).second)
      cursor.fail("tensor " + contents.tensors.back().name + " appears twice");
  }
  contents.data_offset = (cursor.offset() + contents.alignment - 1) / contents.alignment * contents.alignment;
  place_tensors(bytes, name, contents, offsets);
  return contents;
}

}  // namespace halfbyte::files

// The fuzzers' door: any bytes must parse or throw halfbyte::Error.
extern "C" int halfbyte_fuzz_gguf(const uint8_t* data, size_t size) {
  try {
    halfbyte::files::parse_gguf({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  } catch (const halfbyte::Error&) {
  }
  return 0;
}
