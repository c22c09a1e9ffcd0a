// One register function per room; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

#include "ops/ops.h"

namespace halfbyte::bindings {

namespace py = pybind11;

void register_errors(py::module_& m);
void register_formats(py::module_& m);
void register_files(py::module_& m);
void register_sampling(py::module_& m);
void register_model(py::module_& m);
void register_engine(py::module_& m);
void register_quantize(py::module_& m);
void register_cpu(py::module_& m);
void register_text(py::module_& m);
void register_testing(py::module_& m);

// The ops that models run on: the only door to csrc/cpu (cpu_entry.cpp).
const ops::Ops& default_ops();

}  // namespace halfbyte::bindings
