// The door to the CPU backend, and what doctor tells about the processor.
#include <pybind11/stl.h>

#include "base/bandwidth.h"
#include "base/error.h"
#include "base/threads.h"
#include "bindings/bind.h"
#include "cpu/cpu.h"

namespace halfbyte::bindings {

const ops::Ops& default_ops() {
  return cpu::cpu_ops();
}

namespace {

CpuLevel supported_level(const std::string& name) {
  for (const CpuLevel each : supported_cpu_levels()) {
    if (cpu_level_name(each) == name) return each;
  }
  throw Error(ErrorKind::invalid_argument, "This machine has no level " + name + ".");
}

}  // namespace

const ops::Ops& ops_at_level(const std::string& level) {
  if (level == "cuda" && !device_ops().empty()) return *device_ops().front();
  return cpu::cpu_ops(supported_level(level));
}

void register_cpu(py::module_& m) {
  m.def(
      "cpu_info",
      [] {
        py::dict out;
        out["name"] = cpu_name();
        out["level"] = std::string(cpu_level_name(cpu_level()));
        out["reason"] = cpu_level_reason();
        py::list supported;
        for (const CpuLevel level : supported_cpu_levels()) supported.append(std::string(cpu_level_name(level)));
        out["supported"] = supported;
        out["cores"] = usable_cores();
        return out;
      },
      "The processor: name, CPU level in use and why, supported levels, usable cores.");
  m.def(
      "dot_rate",
      [](const std::string& level, int n_threads) { return cpu::dot_rate(supported_level(level), n_threads); },
      py::arg("level"), py::arg("n_threads"), py::call_guard<py::gil_scoped_release>(),
      "Operations a second of a CPU level's integer dots between registers: the bound of prefill.");
  m.def("memory_bandwidth", &memory_bandwidth, py::arg("n_threads"), py::call_guard<py::gil_scoped_release>(),
        "Bytes a second that n_threads read together from memory (the best of five passes over 256 MiB).");
}

}  // namespace halfbyte::bindings
