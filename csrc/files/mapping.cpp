// mmap with errors that say what the system refused.
#include "files/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace halfbyte::files {

namespace {

[[noreturn]] void refuse(const std::string& path, const char* action, int code) {
  const char* hint = code == ENOENT ? "Check the path." : code == EACCES ? "Check the file's permissions." : "";
  throw Error(ErrorKind::io, path + ": cannot " + action + ": " + std::strerror(code) + ".", hint);
}

}  // namespace

Mapping::Mapping(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(path, "open", errno);
  struct stat info = {};
  if (fstat(file, &info) != 0) {
    const int code = errno;
    close(file);
    refuse(path, "inspect", code);
  }
  if (!S_ISREG(info.st_mode)) {
    close(file);
    throw Error(ErrorKind::io, path + ": not a file" + (S_ISDIR(info.st_mode) ? " but a folder." : "."),
                "Name a model file.");
  }
  if (info.st_size == 0) {
    close(file);
    throw Error(ErrorKind::format, path + ": the file is empty.", "The download failed; fetch it again.");
  }
  n_bytes_ = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, n_bytes_, PROT_READ, MAP_SHARED, file, 0);
  const int code = errno;
  close(file);
  if (data == MAP_FAILED) refuse(path, "map", code);
  data_ = static_cast<const std::byte*>(data);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), n_bytes_);
}

void Mapping::release_pages(std::span<const std::byte> part) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (static_cast<size_t>(part.data() - data_) + page - 1) / page * page;
  const size_t end = static_cast<size_t>(part.data() - data_ + part.size()) / page * page;
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace halfbyte::files
