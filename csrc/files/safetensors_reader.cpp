// The safetensors parser: a length, a JSON header, bytes. The header's JSON is read by a parser that knows only the
// shapes a header may have, and that allocates nothing the header's own bytes do not justify.
#include "files/safetensors_reader.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "files/mapping.h"

namespace halfbyte::files {

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxAxes = 8;

struct Dtype {
  std::string_view name;
  int bits;
};
constexpr Dtype kDtypes[] = {
    {"F64", 64},    {"F32", 32},    {"F16", 16},        {"BF16", 16},       {"I64", 64}, {"I32", 32}, {"I16", 16},
    {"I8", 8},      {"U64", 64},    {"U32", 32},        {"U16", 16},        {"U8", 8},   {"BOOL", 8}, {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F4", 4},
};

// Whether bytes are UTF-8 (RFC 3629): none stray or missing, nothing longer than it must be, no surrogates.
bool is_utf8(std::string_view text) {
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};  // of a code with so many bytes behind its first
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i++]);
    const int n = first < 0x80            ? 0
                  : first >> 5 == 0b110   ? 1
                  : first >> 4 == 0b1110  ? 2
                  : first >> 3 == 0b11110 ? 3
                                          : -1;
    if (n < 0) return false;
    uint32_t code = n == 0 ? first : first & 0x3Fu >> n;
    for (int k = 0; k < n; ++k, ++i) {
      if (i >= text.size() || (text[i] & 0xC0) != 0x80) return false;
      code = code << 6 | (text[i] & 0x3Fu);
    }
    if (code < kLeast[n] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
  }
  return true;
}

class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::span<const std::byte> data, const std::string& file)
      : text_(text), data_(data), file_(file) {}

  SafetensorsContents parse() {
    SafetensorsContents contents;
    expect('{');
    if (!accept('}')) {
      do {
        std::string name = string();
        expect(':');
        if (name == "__metadata__")
          metadata(contents.metadata);
        else
          contents.tensors.push_back(tensor(std::move(name)));
      } while (accept(','));
      expect('}');
    }
    space();
    if (at_ != text_.size()) fail("text after the header's end");  // padding is white space
    return contents;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(ErrorKind::format,
                format_string("%s: safetensors header, offset %zu: %s.", file_.c_str(), at_ + 8, problem.c_str()),
                "The file is damaged or cut short; fetch it again.");
  }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }
  bool accept(char wanted) {
    space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail(format_string("'%c' was expected", wanted));
  }

  void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | code >> 6);
      out += static_cast<char>(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | code >> 12);
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    } else {
      out += static_cast<char>(0xF0 | code >> 18);
      out += static_cast<char>(0x80 | (code >> 12 & 63));
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    }
  }
  uint32_t hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("a \\u escape needs four hexadecimal digits");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }
  std::string string() {
    expect('"');
    std::string out;
    while (true) {
      if (at_ >= text_.size()) fail("a string has no end");
      const char c = text_[at_++];
      if (c == '"') {
        if (!is_utf8(out)) fail("a string that is no UTF-8");
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character inside a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      const char escape = at_ < text_.size() ? text_[at_++] : '\0';
      switch (escape) {
        case '"':
        case '\\':
        case '/':
          out += escape;
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'u': {
          uint32_t code = hex4();
          if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
            at_ += 2;
            const uint32_t low = hex4();
            if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          } else if (code >= 0xD800 && code <= 0xDFFF) {
            fail("half of a surrogate pair");
          }
          append_utf8(out, code);
          break;
        }
        default:
          fail("an unknown escape inside a string");
      }
    }
  }
  uint64_t number() {
    space();
    const size_t start = at_;
    uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, static_cast<uint64_t>(text_[at_] - '0'), &value))
        fail("a number is too large");
    }
    if (at_ == start) fail("a count was expected");
    return value;
  }
  template <class Each>
  void list(Each each) {
    expect('[');
    if (accept(']')) return;
    do each(number());
    while (accept(','));
    expect(']');
  }

  void metadata(std::map<std::string, std::string>& out) {
    expect('{');
    if (accept('}')) return;
    do {
      std::string key = string();
      expect(':');
      out[std::move(key)] = string();
    } while (accept(','));
    expect('}');
  }

  SafeTensor tensor(std::string name) {
    SafeTensor out;
    out.name = std::move(name);
    std::vector<uint64_t> offsets;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    const auto once = [&](bool& seen, const std::string& key) {
      if (std::exchange(seen, true)) fail("tensor " + out.name + " has \"" + key + "\" twice");
    };
    expect('{');
    do {
      const std::string key = string();
      expect(':');
      if (key == "dtype") {
        once(has_dtype, key);
        out.dtype = string();
      } else if (key == "shape") {
        once(has_shape, key);
        list([&](uint64_t axis) {
          if (axis > INT64_MAX || out.shape.size() == kMaxAxes) fail("tensor " + out.name + " has an absurd shape");
          out.shape.push_back(static_cast<int64_t>(axis));
        });
      } else if (key == "data_offsets") {
        once(has_offsets, key);
        list([&](uint64_t offset) {
          if (offsets.size() == 2) fail("tensor " + out.name + " has more than two data_offsets");
          offsets.push_back(offset);
        });
      } else {
        fail("tensor " + out.name + " has an unknown field \"" + key + "\"");
      }
    } while (accept(','));
    expect('}');
    if (!has_dtype || !has_shape || offsets.size() != 2)
      fail("tensor " + out.name + " needs dtype, shape and two data_offsets");
    place(out, offsets[0], offsets[1]);
    return out;
  }

  void place(SafeTensor& out, uint64_t begin, uint64_t end) const {
    const auto* dtype =
        std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return d.name == out.dtype; });
    if (dtype == std::end(kDtypes)) {
      throw Error(ErrorKind::unsupported,
                  file_ + ": tensor " + out.name + " is of type " + out.dtype + ", which halfbyte does not know.",
                  "A newer halfbyte may read it.");
    }
    uint64_t n_bits = static_cast<uint64_t>(dtype->bits);
    for (const int64_t axis : out.shape) {
      if (__builtin_mul_overflow(n_bits, static_cast<uint64_t>(axis), &n_bits))
        fail("tensor " + out.name + " has an absurd shape");
    }
    if (begin > end || end > data_.size()) {
      fail(format_string("tensor %s lies at bytes %llu to %llu of %zu: past the end of the file", out.name.c_str(),
                         static_cast<unsigned long long>(begin), static_cast<unsigned long long>(end), data_.size()));
    }
    if (n_bits % 8 != 0 || n_bits / 8 != end - begin) {
      fail(format_string("tensor %s has %llu bytes; its shape and type need %llu", out.name.c_str(),
                         static_cast<unsigned long long>(end - begin), static_cast<unsigned long long>(n_bits / 8)));
    }
    out.bytes = data_.subspan(begin, end - begin);
  }

  std::string_view text_;
  std::span<const std::byte> data_;
  const std::string& file_;
  size_t at_ = 0;
};

void refuse_overlaps(const std::vector<SafeTensor>& tensors, const std::string& name) {
  const SafeTensor* before = nullptr;
  for (const SafeTensor& tensor : tensors) {
    if (tensor.bytes.empty()) continue;
    if (before != nullptr && before->bytes.data() + before->bytes.size() > tensor.bytes.data()) {
      throw Error(ErrorKind::format, name + ": tensors " + before->name + " and " + tensor.name + " overlap.",
                  "The file is damaged; fetch it again.");
    }
    before = &tensor;
  }
}

}  // namespace

SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& name) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes)
    throw Error(ErrorKind::format, format_string("%s: %zu bytes are no safetensors file.", name.c_str(), bytes.size()),
                "The file is cut short; fetch it again.");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > bytes.size() - 8 || header_bytes > kMaxHeaderBytes) {
    throw Error(ErrorKind::format,
                format_string("%s: not a safetensors file: it claims a header of %llu bytes (file: %zu, limit: %llu).",
                              name.c_str(), static_cast<unsigned long long>(header_bytes), bytes.size(),
                              static_cast<unsigned long long>(kMaxHeaderBytes)),
                "The file is damaged, cut short, or a Git LFS pointer; fetch it again.");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  SafetensorsContents contents = HeaderParser(header, bytes.subspan(8 + header_bytes), name).parse();
  std::sort(contents.tensors.begin(), contents.tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  refuse_overlaps(contents.tensors, name);
  return contents;
}

struct SafetensorsFile::State {
  std::string path;
  Mapping mapping;
  SafetensorsContents contents;
  std::unordered_map<std::string_view, size_t> by_name;

  explicit State(const std::string& p) : path(p), mapping(p), contents(parse_safetensors(mapping.bytes(), p)) {
    for (size_t i = 0; i < contents.tensors.size(); ++i) {
      if (!by_name.emplace(contents.tensors[i].name, i).second)
        throw Error(ErrorKind::format, path + ": tensor " + contents.tensors[i].name + " appears twice.");
    }
  }
};

SafetensorsFile::SafetensorsFile(const std::string& path) : state_(std::make_unique<State>(path)) {}
SafetensorsFile::~SafetensorsFile() = default;

std::span<const SafeTensor> SafetensorsFile::tensors() const {
  return state_->contents.tensors;
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->contents.metadata;
}
const SafeTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? nullptr : &state_->contents.tensors[found->second];
}
const std::string& SafetensorsFile::path() const {
  return state_->path;
}
void SafetensorsFile::release_pages(const SafeTensor& tensor) const {
  state_->mapping.release_pages(tensor.bytes);
}

}  // namespace halfbyte::files

// The fuzzers' door: any bytes must parse or throw halfbyte::Error.
extern "C" int halfbyte_fuzz_safetensors(const uint8_t* data, size_t size) {
  try {
    halfbyte::files::parse_safetensors({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  } catch (const halfbyte::Error&) {
  }
  return 0;
}
