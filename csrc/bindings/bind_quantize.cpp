// Quantizing: rows to blocks of another format, and what that loses.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "formats/registry.h"
#include "quantize/encoders.h"
#include "quantize/importance.h"
#include "quantize/requantize.h"

namespace halfbyte::bindings {

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using quantize::Matrices;

const formats::Format& format_named(const std::string& name) {
  const formats::Format* format = formats::find_format(name);
  require(format != nullptr, "There is no block format named %s.", name.c_str());
  return *format;
}

// What requantize() and measure_loss() take, with the buffers it looks into.
struct Input {
  py::buffer_info data;
  Matrices matrices;

  Input(const py::buffer& from, const std::string& format, int64_t n_cols, const std::optional<Floats>& importance,
        const std::optional<Floats>& mean_inputs)
      : data(from.request()) {
    require(PyBuffer_IsContiguous(data.view(), 'C') != 0, "The rows must be contiguous.");
    matrices.format = &format_named(format);
    matrices.n_cols = n_cols;
    matrices.bytes = {static_cast<const std::byte*>(data.ptr), static_cast<size_t>(data.size * data.itemsize)};
    require(n_cols >= 1 && n_cols % matrices.format->block_weights == 0, "Rows of %lld weights are no blocks of %s.",
            static_cast<long long>(n_cols), format.c_str());
    matrices.n_rows = static_cast<int64_t>(matrices.bytes.size()) / matrices.format->row_bytes(n_cols);
    if (importance) matrices.importance = {importance->data(), static_cast<size_t>(importance->size())};
    if (mean_inputs) matrices.mean_inputs = {mean_inputs->data(), static_cast<size_t>(mean_inputs->size())};
  }
};

py::array_t<uint8_t> requantize(const py::buffer& data, const std::string& from, int64_t n_cols, const std::string& to,
                                const std::optional<Floats>& importance, const std::optional<Floats>& mean_inputs,
                                int n_threads) {
  const Input input(data, from, n_cols, importance, mean_inputs);
  const formats::Format& format = format_named(to);
  require(n_cols % format.block_weights == 0, "Rows of %lld weights are no whole blocks of %s (%d weights each).",
          static_cast<long long>(n_cols), to.c_str(), format.block_weights);
  py::array_t<uint8_t> out(input.matrices.n_rows * format.row_bytes(n_cols));
  const std::span<std::byte> bytes(reinterpret_cast<std::byte*>(out.mutable_data()), static_cast<size_t>(out.size()));
  const py::gil_scoped_release release;
  ThreadPool pool(n_threads > 0 ? n_threads : usable_cores());
  quantize::requantize(input.matrices, format, bytes, pool, [](int64_t) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return true;
  });
  return out;
}

std::pair<double, double> measure_loss(const py::buffer& data, const std::string& from, int64_t n_cols,
                                       const std::string& to, const std::optional<Floats>& importance,
                                       const std::optional<Floats>& mean_inputs, int64_t max_rows, int n_threads) {
  const Input input(data, from, n_cols, importance, mean_inputs);
  const formats::Format& format = format_named(to);
  const py::gil_scoped_release release;
  ThreadPool pool(n_threads > 0 ? n_threads : usable_cores());
  const quantize::Loss loss = quantize::measure_loss(input.matrices, format, max_rows, pool);
  return {loss.error, loss.energy};
}

}  // namespace

void register_quantize(py::module_& m) {
  m.def("requantize", &requantize, py::arg("data"), py::arg("from_format"), py::arg("n_cols"), py::arg("to_format"),
        py::arg("importance") = py::none(), py::arg("mean_inputs") = py::none(), py::kw_only(),
        py::arg("n_threads") = 0,
        "Rows of n_cols weights in one format (contiguous bytes) -> the same rows in another: uint8, with the least "
        "squared error that the search finds. importance: float32 (n_cols), or (matrices, n_cols) for stacked ones, "
        "weighs the columns: their mean squared inputs. mean_inputs, as many: their means, along which errors of a row "
        "then take each other back. Raises FormatError for weights that are not finite.");
  m.def("measure_loss", &measure_loss, py::arg("data"), py::arg("from_format"), py::arg("n_cols"), py::arg("to_format"),
        py::arg("importance") = py::none(), py::arg("mean_inputs") = py::none(), py::kw_only(),
        py::arg("max_rows") = 256, py::arg("n_threads") = 0,
        "What requantize() minimizes, sum importance (decoded - w)^2 or with mean_inputs the squared error of outputs, "
        "and the same of w itself, on at most max_rows rows.");
  using quantize::ImportanceCollector;
  py::class_<ImportanceCollector>(m, "ImportanceCollector",
                                  "Sums what enters each matrix while a model reads texts, and its squares.")
      .def(py::init([](const std::shared_ptr<model::Weights>& weights, int n_threads, int64_t n_ctx) {
             const py::gil_scoped_release release;
             return std::make_unique<ImportanceCollector>(weights, n_threads, n_ctx);
           }),
           py::arg("model"), py::kw_only(), py::arg("n_threads") = 0, py::arg("n_ctx") = 512)
      .def("add", &ImportanceCollector::add, py::arg("tokens"), py::call_guard<py::gil_scoped_release>(),
           "Reads a text of its own: 1 to n_ctx tokens.")
      .def(
          "sums",
          [](const ImportanceCollector& c) {
            py::dict out;
            for (const auto& [name, sums] : c.sums()) {
              const auto n_matrices = static_cast<py::ssize_t>(sums.n_rows.size());
              const auto n_cols = static_cast<py::ssize_t>(sums.squares.size()) / n_matrices;
              out[py::str(name)] = py::make_tuple(py::array_t<double>({n_matrices, n_cols}, sums.squares.data()),
                                                  py::array_t<double>({n_matrices, n_cols}, sums.values.data()),
                                                  py::array_t<int64_t>(n_matrices, sums.n_rows.data()));
            }
            return out;
          },
          "dict of tensor name -> (sums of squares, sums: float64 (n_matrices, n_cols), rows seen: int64 "
          "(n_matrices)); a tensor of experts is a stack of several matrices.");
  m.def(
      "can_quantize", [](const std::string& name) { return quantize::can_encode(format_named(name)); },
      py::arg("format"), "Whether requantize() can write the format.");
}

}  // namespace halfbyte::bindings
