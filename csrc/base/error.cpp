// Error construction and printf-style message helpers.
#include "base/error.h"

#include <cstdarg>
#include <cstdio>
#include <utility>

namespace halfbyte {

namespace {

std::string vformat(const char* format, va_list args) {
  va_list measure;
  va_copy(measure, args);
  const int length = std::vsnprintf(nullptr, 0, format, measure);
  va_end(measure);
  if (length < 0) return format;
  std::string text(static_cast<size_t>(length), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, args);
  return text;
}

}  // namespace

Error::Error(ErrorKind kind, std::string message, std::string hint)
    : kind_(kind), message_(std::move(message)), hint_(std::move(hint)) {
  text_ = hint_.empty() ? message_ : message_ + " " + hint_;
}

void require(bool ok, const char* format, ...) {
  if (ok) return;
  va_list args;
  va_start(args, format);
  std::string text = vformat(format, args);
  va_end(args);
  throw Error(ErrorKind::invalid_argument, std::move(text));
}

std::string format_string(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vformat(format, args);
  va_end(args);
  return text;
}

}  // namespace halfbyte
