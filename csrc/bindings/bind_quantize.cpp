// Quantizing: encode rows.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "formats/registry.h"
#include "quantize/encoders.h"

namespace halfbyte::bindings {

namespace {

using Floats = py::array_t<float, py::array::c_style>;

const formats::Format& format_named(const std::string& name) {
  const formats::Format* format = formats::find_format(name);
  require(format != nullptr, "There is no block format named %s.", name.c_str());
  return *format;
}

py::bytes quantize_rows(const Floats& weights, const std::string& name, const std::optional<Floats>& importance,
                        int n_threads) {
  const formats::Format& format = format_named(name);
  require(weights.ndim() == 2, "Weights of shape (rows, columns) are needed; these have %d axes.",
          static_cast<int>(weights.ndim()));
  const int64_t n_rows = weights.shape(0), n_cols = weights.shape(1);
  require(!importance || (importance->ndim() == 1 && importance->shape(0) == n_cols),
          "The importance must hold one number a column: %lld.", static_cast<long long>(n_cols));
  std::string out(static_cast<size_t>(n_rows * format.row_bytes(n_cols)), '\0');
  {
    const py::gil_scoped_release release;
    ThreadPool pool(n_threads > 0 ? n_threads : usable_cores());
    quantize::encode_rows(format, weights.data(), n_rows, n_cols, importance ? importance->data() : nullptr,
                          reinterpret_cast<std::byte*>(out.data()), pool);
  }
  return py::bytes(out);
}

}  // namespace

void register_quantize(py::module_& m) {
  m.def("quantize_rows", &quantize_rows, py::arg("weights"), py::arg("format"), py::arg("importance") = py::none(),
        py::kw_only(), py::arg("n_threads") = 0,
        "Encodes float32 weights (rows, columns) with the least squared error that the search finds, each column "
        "weighted by importance (columns).");
}

}  // namespace halfbyte::bindings
