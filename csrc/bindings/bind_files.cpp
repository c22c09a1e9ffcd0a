// Model files: read metadata and tensors, write GGUF.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "bindings/metadata.h"
#include "files/gguf_reader.h"
#include "files/gguf_writer.h"
#include "formats/registry.h"

namespace halfbyte::bindings {

namespace {

using files::GgufSource;
using files::MetaArray;
using files::TensorView;

const TensorView& tensor_named(const GgufSource& source, const std::string& name) {
  const TensorView* tensor = source.find(name);
  require(tensor != nullptr, "%s has no tensor named %s.", source.path().c_str(), name.c_str());
  return *tensor;
}

py::array_t<float> tensor_f32(const GgufSource& source, const std::string& name) {
  const TensorView& tensor = tensor_named(source, name);
  const std::vector<py::ssize_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
  py::array_t<float> out(shape);
  float* data = out.mutable_data();
  const py::gil_scoped_release release;
  tensor.format->decode(tensor.bytes.data(), data, tensor.n_weights() / tensor.format->block_weights);
  return out;
}

files::MetaValue value_from_python(const std::string& key, const py::handle& value);

std::shared_ptr<const MetaArray> array_from_python(const std::string& key, const py::sequence& items) {
  auto array = std::make_shared<MetaArray>();
  for (const py::handle item : items) {
    const files::MetaValue value = value_from_python(key, item);
    const auto expect = [&](MetaArray::Type type) {
      require(array->size() == 0 || array->type == type, "Metadata key %s: an array's elements must be of one type.",
              key.c_str());
      array->type = type;
    };
    if (const auto* flag = std::get_if<bool>(&value))
      expect(MetaArray::Type::boolean), array->booleans.push_back(*flag ? 1 : 0);
    else if (const auto* i = std::get_if<int64_t>(&value))
      expect(MetaArray::Type::integer), array->integers.push_back(*i);
    else if (const auto* u = std::get_if<uint64_t>(&value))
      expect(MetaArray::Type::unsigned_integer), array->unsigned_integers.push_back(*u);
    else if (const auto* d = std::get_if<double>(&value))
      expect(MetaArray::Type::real), array->reals.push_back(*d);
    else if (const auto* s = std::get_if<std::string>(&value))
      expect(MetaArray::Type::text), array->texts.push_back(*s);
    else
      expect(MetaArray::Type::array), array->arrays.push_back(std::get<std::shared_ptr<const MetaArray>>(value));
  }
  return array;
}

// Python ints become u32/u64 in a scalar (what readers expect of counts) when not negative, and signed inside arrays.
files::MetaValue value_from_python(const std::string& key, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  if (py::isinstance<py::bytes>(value)) return std::string(value.cast<py::bytes>());
  if (py::isinstance<py::sequence>(value)) return array_from_python(key, value.cast<py::sequence>());
  throw Error(ErrorKind::invalid_argument,
              "Metadata key " + key + ": a value must be bool, int, float, str, bytes or a list of these.");
}

// tensors: list of (name, format name, shape in GGUF order, bytes-like).
void write_gguf(const std::string& path, const py::dict& metadata, const py::list& tensors) {
  files::Metadata meta;
  for (const auto& [key, value] : metadata) {
    const std::string name = key.cast<std::string>();
    files::MetaValue converted = value_from_python(name, value);
    if (const auto* i = std::get_if<int64_t>(&converted); i != nullptr && *i >= 0)
      converted = static_cast<uint64_t>(*i);
    meta.values.emplace(name, std::move(converted));
  }
  std::vector<files::TensorToWrite> out;
  std::vector<py::buffer_info> buffers;
  buffers.reserve(tensors.size());
  for (const py::handle item : tensors) {
    const auto row = item.cast<py::tuple>();
    require(row.size() == 4, "A tensor is (name, format, shape, data).");
    files::TensorToWrite tensor;
    tensor.name = row[0].cast<std::string>();
    const std::string format = row[1].cast<std::string>();
    tensor.format = formats::find_format(format);
    require(tensor.format != nullptr, "Tensor %s: there is no block format named %s.", tensor.name.c_str(),
            format.c_str());
    tensor.shape = row[2].cast<std::vector<int64_t>>();
    buffers.push_back(row[3].cast<py::buffer>().request());
    const py::buffer_info& info = buffers.back();
    require(PyBuffer_IsContiguous(info.view(), 'C') != 0, "Tensor %s: the data must be contiguous.",
            tensor.name.c_str());
    tensor.fill = [data = static_cast<const std::byte*>(info.ptr), n = static_cast<size_t>(info.size * info.itemsize)] {
      return std::span<const std::byte>(data, n);
    };
    out.push_back(std::move(tensor));
  }
  const py::gil_scoped_release release;
  files::write_gguf(path, meta, out);
}

}  // namespace

py::object to_python(const files::MetaValue& value) {
  return std::visit(
      [](const auto& held) -> py::object {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, std::shared_ptr<const MetaArray>>) {
          py::list items;
          for (const uint8_t b : held->booleans) items.append(b != 0);
          for (const int64_t i : held->integers) items.append(i);
          for (const uint64_t u : held->unsigned_integers) items.append(u);
          for (const double d : held->reals) items.append(d);
          for (const std::string& s : held->texts) items.append(text_to_python(s));
          for (const auto& a : held->arrays) items.append(to_python(files::MetaValue(a)));
          return items;
        } else if constexpr (std::is_same_v<T, std::string>) {
          return text_to_python(held);
        } else {
          return py::cast(held);
        }
      },
      value);
}

py::object text_to_python(const std::string& text) {
  PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "surrogateescape");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

py::dict to_python(const files::Metadata& metadata) {
  py::dict out;
  for (const auto& [key, value] : metadata.values) out[text_to_python(key)] = to_python(value);
  return out;
}

void register_files(py::module_& m) {
  py::class_<TensorView>(m, "TensorInfo",
                         "A tensor of a model file: name, format, shape (contiguous axis first), n_bytes.")
      .def_property_readonly("name", [](const TensorView& t) { return text_to_python(t.name); })
      .def_property_readonly("format", [](const TensorView& t) { return std::string(t.format->name); })
      .def_property_readonly("shape", [](const TensorView& t) { return py::tuple(py::cast(t.shape)); })
      .def_property_readonly("n_bytes", [](const TensorView& t) { return t.bytes.size(); })
      .def("__repr__", [](const TensorView& t) {
        return "TensorInfo(" + t.name + ", " + std::string(t.format->name) + ", " +
               py::repr(py::tuple(py::cast(t.shape))).cast<std::string>() + ")";
      });
  py::class_<GgufSource, std::shared_ptr<GgufSource>>(m, "GgufFile",
                                                      "A GGUF file (or all parts of a split one) open for reading.")
      .def(py::init([](const std::string& path) {
             const py::gil_scoped_release release;
             return std::make_shared<GgufSource>(path);
           }),
           py::arg("path"))
      .def_property_readonly(
          "metadata", [](const GgufSource& s) { return to_python(s.metadata()); },
          "dict of key -> bool, int, float, str or list; made anew at each access.")
      .def_property_readonly("tensors",
                             [](const std::shared_ptr<GgufSource>& s) {
                               py::list out;
                               for (const TensorView& t : s->tensors())
                                 out.append(py::cast(&t, py::return_value_policy::reference_internal, py::cast(s)));
                               return out;
                             })
      .def_property_readonly("version", &GgufSource::version)
      .def_property_readonly("alignment", &GgufSource::alignment)
      .def_property_readonly("paths", &GgufSource::paths)
      .def(
          "tensor_data",
          [](const GgufSource& s, const std::string& name) {
            const TensorView& t = tensor_named(s, name);
            py::array_t<uint8_t> out(static_cast<py::ssize_t>(t.bytes.size()));
            std::memcpy(out.mutable_data(), t.bytes.data(), t.bytes.size());
            return out;
          },
          py::arg("name"), "The tensor's bytes as stored, uint8 (n_bytes).")
      .def("tensor_f32", &tensor_f32, py::arg("name"), "The tensor decoded: float32, numpy order (rows, columns).");
  m.def("write_gguf", &write_gguf, py::arg("path"), py::arg("metadata"), py::arg("tensors"),
        "Writes a GGUF v3 file; tensors are (name, format, shape with the contiguous axis first, bytes-like).");
}

}  // namespace halfbyte::bindings
