// Metadata as Python values, for every room that shows it.
#pragma once

#include <string>

#include "bindings/bind.h"
#include "files/tensor_source.h"

namespace halfbyte::bindings {

py::object to_python(const files::MetaValue& value);
py::dict to_python(const files::Metadata& metadata);

// Text from a file may not be UTF-8: bytes that are not become surrogates (as Python does for file names).
py::object text_to_python(const std::string& text);

}  // namespace halfbyte::bindings
