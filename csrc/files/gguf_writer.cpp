// Serializes metadata and tensors in GGUF v3 order.
#include "files/gguf_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "base/error.h"

namespace halfbyte::files {

namespace {

// Opens PATH.new for one process at a time. What a killed process left there is overwritten; its lock died with it.
std::FILE* claim(const std::string& path) {
  for (;;) {
    const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) return nullptr;
    struct stat opened, named;
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int code = errno;
      close(descriptor);
      if (code != EWOULDBLOCK) return errno = code, nullptr;
      throw Error(ErrorKind::io, format_string("%s is being written by another process.", path.c_str()),
                  "Wait for it to end, or choose another name.");
    }
    // Between the two calls another process may have finished and renamed the file that we locked.
    if (fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
        ftruncate(descriptor, 0) == 0)
      return fdopen(descriptor, "wb");
    close(descriptor);
  }
}

class Writer {
 public:
  explicit Writer(const std::string& path) : path_(path), file_(claim(path)) {
    if (file_ == nullptr) fail("create");
  }
  ~Writer() {
    if (file_ != nullptr) {
      std::remove(path_.c_str());
      std::fclose(file_);
    }
  }
  void bytes(const void* data, size_t n) {
    if (n != 0 && std::fwrite(data, 1, n, file_) != n) fail("write");
    offset_ += n;
  }
  template <class T>
  void number(T value) {
    bytes(&value, sizeof value);
  }
  void text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes(value.data(), value.size());
  }
  void pad(uint64_t alignment) {
    static constexpr char kZeros[64] = {};
    while (offset_ % alignment != 0) bytes(kZeros, std::min<size_t>(sizeof kZeros, alignment - offset_ % alignment));
  }
  // Flushed to the disk before the name changes: a crash leaves the old file or the new one.
  void finish(const std::string& final_path) {
    if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0 || std::rename(path_.c_str(), final_path.c_str()) != 0)
      fail("write");
    std::fclose(std::exchange(file_, nullptr));
  }

 private:
  [[noreturn]] void fail(const char* action) {
    throw Error(ErrorKind::io, format_string("%s: cannot %s: %s.", path_.c_str(), action, std::strerror(errno)));
  }
  std::string path_;
  std::FILE* file_;
  uint64_t offset_ = 0;
};

// Integers are written in the smallest of the types readers expect: u32 or i32 where they fit, else 64 bits.
bool fits_u32(uint64_t value) {
  return value <= std::numeric_limits<uint32_t>::max();
}
bool fits_i32(int64_t value) {
  return value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max();
}

// Readers expect f32 for every real number, whatever is lost to rounding; only what overflows goes into f64.
bool fits_f32(double value) {
  return !(std::fabs(value) > std::numeric_limits<float>::max()) || std::isinf(value);
}

void write_array(Writer& out, const MetaArray& array);

struct ValueWriter {
  Writer& out;
  void operator()(bool value) const { out.number<uint32_t>(7), out.number<uint8_t>(value ? 1 : 0); }
  void operator()(int64_t value) const {
    if (fits_i32(value))
      out.number<uint32_t>(5), out.number(static_cast<int32_t>(value));
    else
      out.number<uint32_t>(11), out.number(value);
  }
  void operator()(uint64_t value) const {
    if (fits_u32(value))
      out.number<uint32_t>(4), out.number(static_cast<uint32_t>(value));
    else
      out.number<uint32_t>(10), out.number(value);
  }
  void operator()(double value) const {
    if (fits_f32(value))
      out.number<uint32_t>(6), out.number(static_cast<float>(value));
    else
      out.number<uint32_t>(12), out.number(value);
  }
  void operator()(const std::string& value) const { out.number<uint32_t>(8), out.text(value); }
  void operator()(const std::shared_ptr<const MetaArray>& value) const {
    out.number<uint32_t>(9), write_array(out, *value);
  }
};

// Readers of split models insist on the widths of these three.
bool write_split_key(Writer& out, const std::string& key, const MetaValue& value) {
  const auto* number = std::get_if<uint64_t>(&value);
  if (number == nullptr) return false;
  if (key == "split.no" || key == "split.count")
    out.number<uint32_t>(2), out.number(static_cast<uint16_t>(*number));
  else if (key == "split.tensors.count")
    out.number<uint32_t>(5), out.number(static_cast<int32_t>(*number));
  else
    return false;
  return true;
}

void write_array(Writer& out, const MetaArray& array) {
  const auto header = [&](uint32_t type) { out.number(type), out.number<uint64_t>(array.size()); };
  switch (array.type) {
    case MetaArray::Type::boolean:
      header(7);
      out.bytes(array.booleans.data(), array.booleans.size());
      break;
    case MetaArray::Type::integer: {
      bool narrow = true;
      for (const int64_t v : array.integers) narrow = narrow && fits_i32(v);
      header(narrow ? 5 : 11);
      for (const int64_t v : array.integers) narrow ? out.number(static_cast<int32_t>(v)) : out.number(v);
      break;
    }
    case MetaArray::Type::unsigned_integer: {
      bool narrow = true;
      for (const uint64_t v : array.unsigned_integers) narrow = narrow && fits_u32(v);
      header(narrow ? 4 : 10);
      for (const uint64_t v : array.unsigned_integers) narrow ? out.number(static_cast<uint32_t>(v)) : out.number(v);
      break;
    }
    case MetaArray::Type::real: {
      bool narrow = true;
      for (const double v : array.reals) narrow = narrow && fits_f32(v);
      header(narrow ? 6 : 12);
      for (const double v : array.reals) narrow ? out.number(static_cast<float>(v)) : out.number(v);
      break;
    }
    case MetaArray::Type::text:
      header(8);
      for (const std::string& v : array.texts) out.text(v);
      break;
    case MetaArray::Type::array:
      header(9);
      for (const auto& v : array.arrays) write_array(out, *v);
      break;
  }
}

}  // namespace

int64_t TensorToWrite::n_bytes() const {
  int64_t n = 1;
  for (const int64_t axis : shape) n *= axis;
  return n / format->block_weights * format->block_bytes;
}

void write_gguf(const std::string& path, const Metadata& metadata, const std::vector<TensorToWrite>& tensors) {
  const int64_t alignment = metadata.get_int("general.alignment").value_or(32);
  require(alignment >= 1 && alignment <= 1 << 20, "general.alignment is %lld; 1 to 1048576 are allowed.",
          static_cast<long long>(alignment));
  for (const TensorToWrite& tensor : tensors) {
    require(tensor.format != nullptr && !tensor.shape.empty() && tensor.shape.size() <= 4,
            "Tensor %s needs a format and 1 to 4 axes.", tensor.name.c_str());
    for (const int64_t axis : tensor.shape)
      require(axis >= 1, "Tensor %s has an axis of length %lld.", tensor.name.c_str(), static_cast<long long>(axis));
    require(tensor.shape[0] % tensor.format->block_weights == 0,
            "Tensor %s: rows of %lld weights are no whole blocks of %s.", tensor.name.c_str(),
            static_cast<long long>(tensor.shape[0]), std::string(tensor.format->name).c_str());
  }

  Writer out(path + ".new");
  out.bytes("GGUF", 4);
  out.number<uint32_t>(3);
  out.number<uint64_t>(tensors.size());
  out.number<uint64_t>(metadata.values.size());
  for (const auto& [key, value] : metadata.values) {
    out.text(key);
    if (!write_split_key(out, key, value)) std::visit(ValueWriter{out}, value);
  }
  uint64_t offset = 0;
  const auto aligned = [&](uint64_t n) {
    return (n + static_cast<uint64_t>(alignment) - 1) / static_cast<uint64_t>(alignment) *
           static_cast<uint64_t>(alignment);
  };
  for (const TensorToWrite& tensor : tensors) {
    out.text(tensor.name);
    out.number(static_cast<uint32_t>(tensor.shape.size()));
    for (const int64_t axis : tensor.shape) out.number(static_cast<uint64_t>(axis));
    out.number(static_cast<uint32_t>(tensor.format->id));
    out.number(offset);
    offset = aligned(offset + static_cast<uint64_t>(tensor.n_bytes()));
  }
  out.pad(static_cast<uint64_t>(alignment));
  for (const TensorToWrite& tensor : tensors) {
    const std::span<const std::byte> bytes = tensor.fill();
    require(static_cast<int64_t>(bytes.size()) == tensor.n_bytes(), "Tensor %s: %zu bytes given, %lld expected.",
            tensor.name.c_str(), bytes.size(), static_cast<long long>(tensor.n_bytes()));
    out.bytes(bytes.data(), bytes.size());
    out.pad(static_cast<uint64_t>(alignment));
  }
  out.finish(path);
}

}  // namespace halfbyte::files
