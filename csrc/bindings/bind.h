// One register function per room; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

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

// The ops of each GPU, or none and why: the only door to csrc/cuda (cuda_entry.cpp).
std::vector<const ops::Ops*> device_ops();
std::string device_problem();
// For tests: another library than the installed one; empty: back to that.
void open_device_library(const std::string& path);

// Runs work without the interpreter's lock, for calls that wait. No guard object: when the interpreter ends, Python
// ends a thread where it asks for the lock again, and no destructor survives that.
template <class Work>
auto without_lock(Work&& work) {
  using Result = std::invoke_result_t<Work>;
  std::optional<std::conditional_t<std::is_void_v<Result>, bool, Result>> result;
  std::exception_ptr failure;
  PyThreadState* const thread = PyEval_SaveThread();
  try {
    if constexpr (std::is_void_v<Result>)
      work();
    else
      result.emplace(work());
  } catch (...) {
    failure = std::current_exception();
  }
  PyEval_RestoreThread(thread);
  if (failure) std::rethrow_exception(failure);
  if constexpr (!std::is_void_v<Result>) return Result(std::move(*result));
}

}  // namespace halfbyte::bindings
