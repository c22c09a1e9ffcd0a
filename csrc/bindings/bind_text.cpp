// Text helpers that are too slow in Python.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "text/merges.h"

namespace halfbyte::bindings {

void register_text(py::module_& m) {
  m.def(
      "merges_by_score",
      [](const std::vector<py::str>& pieces, const std::vector<float>& scores, const std::vector<uint8_t>& mergeable) {
        std::vector<std::string> texts;
        texts.reserve(pieces.size());
        for (const py::str& piece : pieces) {
          // Files hold pieces that are no UTF-8 by themselves; Python keeps them as lone surrogates.
          const auto bytes =
              py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(piece.ptr(), "utf-8", "surrogatepass"));
          if (!bytes) throw py::error_already_set();
          texts.emplace_back(bytes);
        }
        std::vector<std::pair<int32_t, int32_t>> merges;
        {
          const py::gil_scoped_release release;
          merges = text::merges_by_score(texts, scores, mergeable);
        }
        std::vector<std::pair<py::str, py::str>> out;
        out.reserve(merges.size());
        for (const auto& [left, right] : merges)
          out.emplace_back(pieces[static_cast<size_t>(left)], pieces[static_cast<size_t>(right)]);
        return out;
      },
      py::arg("pieces"), py::arg("scores"), py::arg("mergeable"),
      "(left, right) of every pair of pieces that makes a mergeable piece, best score first.");
}

}  // namespace halfbyte::bindings
