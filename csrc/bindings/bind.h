// One register function per room; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

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
void register_cuda(py::module_& m);
void register_text(py::module_& m);
void register_testing(py::module_& m);

// The ops that models run on: the only door to csrc/cpu (cpu_entry.cpp).
const ops::Ops& default_ops();

// The GPU's ops, or nullptr and why: the only door to csrc/cuda (cuda_entry.cpp).
const ops::Ops* device_ops();
std::string device_problem();
// For tests: another library than the installed one; empty: back to that.
void open_device_library(const std::string& path);

}  // namespace halfbyte::bindings
