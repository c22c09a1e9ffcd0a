// Converts Python values; objects that outlive the call are let go of under the interpreter's lock.
#include "bindings/from_python.h"

#include <pybind11/stl.h>

#include "base/error.h"
#include "formats/registry.h"

namespace halfbyte::bindings {

namespace {

using files::MetaArray;

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
  if (py::isinstance<py::int_>(value)) {
    int overflow = 0;
    const int64_t number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    require(overflow == 0, "Metadata key %s: %s does not fit 64 bits.", key.c_str(),
            py::str(value).cast<std::string>().substr(0, 40).c_str());
    return number;
  }
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::str>(value)) {
    const auto bytes = py::reinterpret_steal<py::object>(PyUnicode_AsEncodedString(value.ptr(), "utf-8", "replace"));
    return std::string(bytes.cast<py::bytes>());
  }
  if (py::isinstance<py::bytes>(value)) return std::string(value.cast<py::bytes>());
  if (py::isinstance<py::sequence>(value)) return array_from_python(key, value.cast<py::sequence>());
  throw Error(ErrorKind::invalid_argument,
              "Metadata key " + key + ": a value must be bool, int, float, str, bytes or a list of these.");
}

// Shared ownership of a Python-bound value from threads that may not hold the lock.
template <class T>
std::shared_ptr<T> guarded(T value) {
  return std::shared_ptr<T>(new T(std::move(value)), [](T* pointer) {
    if (Py_IsInitialized() == 0) return;  // the interpreter is gone, and its objects with it
    const py::gil_scoped_acquire gil;
    delete pointer;
  });
}

files::HeldBytes held_bytes(const std::string& name, const py::handle& data) {
  auto info = guarded(data.cast<py::buffer>().request());
  require(PyBuffer_IsContiguous(info->view(), 'C') != 0, "Tensor %s: the data must be contiguous.", name.c_str());
  const auto n_bytes = static_cast<size_t>(info->size * info->itemsize);
  const auto* bytes = static_cast<const std::byte*>(info->ptr);
  return {{bytes, n_bytes}, std::move(info)};
}

}  // namespace

files::Metadata metadata_from_python(const py::dict& metadata) {
  files::Metadata out;
  for (const auto& [key, value] : metadata) {
    const std::string name = key.cast<std::string>();
    files::MetaValue converted = value_from_python(name, value);
    if (const auto* i = std::get_if<int64_t>(&converted); i != nullptr && *i >= 0)
      converted = static_cast<uint64_t>(*i);
    out.values.emplace(name, std::move(converted));
  }
  return out;
}

std::vector<files::LateTensor> tensors_from_python(const py::list& tensors) {
  std::vector<files::LateTensor> out;
  for (const py::handle item : tensors) {
    const auto row = item.cast<py::tuple>();
    require(row.size() == 4, "A tensor is (name, format, shape, data).");
    files::LateTensor tensor;
    tensor.view.name = row[0].cast<std::string>();
    const std::string format = row[1].cast<std::string>();
    tensor.view.format = formats::find_format(format);
    require(tensor.view.format != nullptr, "Tensor %s: there is no block format named %s.", tensor.view.name.c_str(),
            format.c_str());
    tensor.view.shape = row[2].cast<std::vector<int64_t>>();
    const py::object data = row[3];
    if (PyCallable_Check(data.ptr()) != 0) {
      tensor.make = [name = tensor.view.name, function = guarded(data)] {
        const py::gil_scoped_acquire gil;
        return held_bytes(name, (*function)());
      };
    } else {
      tensor.make = [held = held_bytes(tensor.view.name, data)] { return held; };
    }
    out.push_back(std::move(tensor));
  }
  return out;
}

}  // namespace halfbyte::bindings
