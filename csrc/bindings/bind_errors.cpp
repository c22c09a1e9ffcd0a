// Error -> the exception classes of halfbyte.errors.
#include "base/error.h"
#include "bindings/bind.h"

namespace halfbyte::bindings {

namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::format:
      return "FormatError";
    case ErrorKind::unsupported:
      return "UnsupportedError";
    case ErrorKind::invalid_argument:
      return "InvalidArgumentError";
    case ErrorKind::out_of_memory:
      return "OutOfMemoryError";
    case ErrorKind::context_overflow:
      return "ContextOverflowError";
    case ErrorKind::cancelled:
      return "CancelledError";
    case ErrorKind::io:
      return "FileError";
    case ErrorKind::busy:
      return "BusyError";
  }
  return "HalfbyteError";
}

// Messages may quote a damaged file: bytes that are no UTF-8 are shown as U+FFFD.
py::object shown(const std::string& text) {
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
}

}  // namespace

py::object error_to_python(const Error& error) {
  const py::object type = py::module_::import("halfbyte.errors").attr(class_name(error.kind()));
  return type(shown(error.message()), py::arg("hint") = shown(error.hint()));
}

namespace {

void raise(const Error& error) {
  const py::object value = error_to_python(error);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
}

}  // namespace

void register_errors(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      raise(error);
    } catch (const std::bad_alloc&) {
      raise(Error(ErrorKind::out_of_memory, "The system refused an allocation.",
                  "Close other programs, or choose a smaller model or context."));
    }
  });
}

}  // namespace halfbyte::bindings
