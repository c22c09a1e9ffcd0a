// The format registry: list, decode, encode.
#include <pybind11/numpy.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "formats/registry.h"

namespace halfbyte::bindings {

namespace {

const formats::Format& named(const std::string& name) {
  const formats::Format* format = formats::find_format(name);
  require(format != nullptr, "There is no block format named %s.", name.c_str());
  return *format;
}

py::array_t<float> decode(const std::string& name, const py::bytes& blocks) {
  const formats::Format& format = named(name);
  const std::string_view bytes = blocks;
  require(bytes.size() % static_cast<size_t>(format.block_bytes) == 0,
          "%zu bytes are no whole blocks of %s (%d bytes each).", bytes.size(), name.c_str(), format.block_bytes);
  const auto n_blocks = static_cast<int64_t>(bytes.size()) / format.block_bytes;
  py::array_t<float> out(n_blocks * format.block_weights);
  format.decode(bytes.data(), out.mutable_data(), n_blocks);
  return out;
}

py::bytes encode(const std::string& name, const py::array_t<float, py::array::c_style>& weights) {
  const formats::Format& format = named(name);
  require(format.encode != nullptr, "%s has no encoder.", name.c_str());
  require(weights.size() % format.block_weights == 0, "%lld weights are no whole blocks of %s (%d weights each).",
          static_cast<long long>(weights.size()), name.c_str(), format.block_weights);
  const int64_t n_blocks = weights.size() / format.block_weights;
  std::string out(static_cast<size_t>(n_blocks * format.block_bytes), '\0');
  format.encode(weights.data(), out.data(), n_blocks);
  return py::bytes(out);
}

}  // namespace

void register_formats(py::module_& m) {
  m.def(
      "formats",
      [] {
        py::list rows;
        for (const formats::Format& f : formats::all_formats()) {
          py::dict row;
          row["id"] = static_cast<uint32_t>(f.id);
          row["name"] = std::string(f.name);
          row["block_weights"] = f.block_weights;
          row["block_bytes"] = f.block_bytes;
          row["bits_per_weight"] = f.bits_per_weight();
          row["has_encoder"] = f.encode != nullptr;
          row["max_rmse"] = f.max_rmse;
          rows.append(row);
        }
        return rows;
      },
      "Every block format: id, name, block_weights, block_bytes, bits_per_weight, has_encoder, max_rmse.");
  m.def("decode", &decode, py::arg("format"), py::arg("blocks"),
        "Decodes whole blocks of a format into float32 weights.");
  m.def("encode", &encode, py::arg("format"), py::arg("weights"),
        "Encodes float32 weights into blocks, rounding to nearest.");
}

}  // namespace halfbyte::bindings
