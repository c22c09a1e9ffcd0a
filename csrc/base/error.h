// The one error type of the core. Every kind becomes one Python exception class (bindings/bind_errors.cpp).
#pragma once

#include <exception>
#include <string>

namespace halfbyte {

enum class ErrorKind {
  format,            // a file is damaged or not what it claims to be
  unsupported,       // a valid file or request that halfbyte cannot serve
  invalid_argument,  // the caller passed something out of range
  out_of_memory,     // an allocation was refused, or would not fit the machine
  context_overflow,  // prompt and answer do not fit the context
  cancelled,         // the caller stopped the work
  io,                // the operating system refused a file operation
  busy,              // the queue is full
};

// `message` says what was found and what was expected; `hint` says what to do (may be empty).
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message, std::string hint = {});

  const char* what() const noexcept override { return text_.c_str(); }  // message, then hint
  ErrorKind kind() const noexcept { return kind_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorKind kind_;
  std::string message_, hint_, text_;
};

// Throws Error(invalid_argument) with a printf-style message unless `ok`. In every build, for checks that face input.
void require(bool ok, const char* format, ...) __attribute__((format(printf, 2, 3)));

// printf into a std::string.
std::string format_string(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace halfbyte
