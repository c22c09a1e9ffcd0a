// What Python hands to the core: metadata, and tensors that are there or are made when asked for.
#pragma once

#include <vector>

#include "bindings/bind.h"
#include "files/assembled_source.h"

namespace halfbyte::bindings {

files::Metadata metadata_from_python(const py::dict& metadata);

// tensors: list of (name, format name, shape in GGUF order, bytes-like or a function that returns bytes-like).
std::vector<files::LateTensor> tensors_from_python(const py::list& tensors);

}  // namespace halfbyte::bindings
