// Text helpers that are too slow in Python.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "text/merges.h"

namespace halfbyte::bindings {

void register_text(py::module_& m) {
  m.def(
      "merges_by_score",
      [](const std::vector<py::bytes>& pieces, const std::vector<float>& scores,
         const std::vector<uint8_t>& mergeable) {
        const std::vector<std::string> strings(pieces.begin(), pieces.end());
        const py::gil_scoped_release release;
        return text::merges_by_score(strings, scores, mergeable);
      },
      py::arg("pieces"), py::arg("scores"), py::arg("mergeable"),
      "(left id, right id) of every pair of pieces (UTF-8) that makes a mergeable piece, best score first.");
}

}  // namespace halfbyte::bindings
