// Aligned allocation with huge pages for large buffers.
#include "base/buffer.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "base/error.h"

namespace halfbyte {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Buffer::Buffer(size_t n_bytes, const char* what) : n_bytes_(n_bytes) {
  if (n_bytes == 0) return;
  const size_t alignment = n_bytes >= kHugePage ? kHugePage : 64;
  if (n_bytes > SIZE_MAX - alignment) {
    throw Error(ErrorKind::out_of_memory, format_string("%s would need %zu bytes.", what, n_bytes));
  }
  const size_t rounded = (n_bytes + alignment - 1) / alignment * alignment;  // what aligned_alloc asks for
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (data_ == nullptr) {
    throw Error(
        ErrorKind::out_of_memory,
        format_string("%s needs %.1f MiB, which the system refused.", what, static_cast<double>(n_bytes) / (1 << 20)),
        "Close other programs, or choose a smaller model, context (n_ctx) or KV type (kv_type=\"q8_0\").");
  }
#if defined(__linux__)
  // Only advice: refusal changes nothing. The last, partial huge page is left out, or it would cost a whole one.
  if (alignment == kHugePage) madvise(data_, n_bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

Buffer::~Buffer() {
  if (release_ == nullptr)
    std::free(data_);
  else if (data_ != nullptr)
    release_(data_);
}

void return_freed_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace halfbyte
