// Model files: read metadata and tensors of GGUF and safetensors, write GGUF.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "bindings/from_python.h"
#include "bindings/metadata.h"
#include "files/gguf_source.h"
#include "files/gguf_writer.h"
#include "files/safetensors_reader.h"

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

void write_gguf(const std::string& path, const py::dict& metadata, const py::list& tensors) {
  const files::Metadata meta = metadata_from_python(metadata);
  std::vector<files::LateTensor> late = tensors_from_python(tensors);
  std::vector<files::TensorToWrite> out;
  files::HeldBytes held;  // of the tensor being written
  for (files::LateTensor& tensor : late) {
    out.push_back({std::move(tensor.view.name), tensor.view.format, std::move(tensor.view.shape),
                   [&held, make = std::move(tensor.make)] {
                     held = {};
                     held = make();
                     return held.bytes;
                   }});
  }
  const py::gil_scoped_release release;
  files::write_gguf(path, meta, out);
}

const files::SafeTensor& tensor_named(const files::SafetensorsFile& file, const std::string& name) {
  const files::SafeTensor* tensor = file.find(name);
  require(tensor != nullptr, "%s has no tensor named %s.", file.path().c_str(), name.c_str());
  return *tensor;
}

// The tensor's bytes where they lie in the mapped file, read-only. When the last array on them goes, so do their pages.
py::array tensor_view(const std::shared_ptr<files::SafetensorsFile>& file, const std::string& name) {
  struct Held {
    std::shared_ptr<files::SafetensorsFile> file;
    const files::SafeTensor* tensor;
  };
  const files::SafeTensor& tensor = tensor_named(*file, name);
  const py::capsule owner(new Held{file, &tensor}, [](void* pointer) {
    const std::unique_ptr<Held> held(static_cast<Held*>(pointer));
    held->file->release_pages(*held->tensor);
  });
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(tensor.bytes.size()),
                           reinterpret_cast<const uint8_t*>(tensor.bytes.data()), owner);
  out.attr("flags").attr("writeable") = false;
  return out;
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
        "Writes a GGUF v3 file; tensors are (name, format, shape with the contiguous axis first, data). data is "
        "bytes-like, or a function without arguments that gives it when the tensor's turn comes.");
  py::class_<files::SafetensorsFile, std::shared_ptr<files::SafetensorsFile>>(
      m, "SafetensorsFile", "A safetensors file open for reading; its header was checked.")
      .def(py::init([](const std::string& path) {
             const py::gil_scoped_release release;
             return std::make_shared<files::SafetensorsFile>(path);
           }),
           py::arg("path"))
      .def_property_readonly(
          "tensors",
          [](const files::SafetensorsFile& file) {
            py::dict out;
            for (const files::SafeTensor& t : file.tensors())
              out[text_to_python(t.name)] = py::make_tuple(t.dtype, py::tuple(py::cast(t.shape)));
            return out;
          },
          "dict of name -> (dtype as the file spells it, shape with the outermost axis first).")
      .def_property_readonly("metadata", [](const files::SafetensorsFile& file) { return file.metadata(); })
      .def("tensor_data", &tensor_view, py::arg("name"),
           "The tensor's bytes in the mapped file: uint8 (n_bytes), read-only, not copied.");
}

}  // namespace halfbyte::bindings
