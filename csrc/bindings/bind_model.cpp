// Loaded models: configuration and sizes.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/buffer.h"
#include "base/error.h"
#include "bindings/bind.h"
#include "bindings/from_python.h"
#include "bindings/metadata.h"
#include "files/tensor_source.h"
#include "model/adapter.h"
#include "model/placement.h"
#include "model/weights.h"

namespace halfbyte::bindings {

namespace {

using model::Weights;

py::dict config_to_python(const model::Config& c) {
  py::dict out;
  out["architecture"] = c.arch;
  out["name"] = text_to_python(c.name);
  out["n_layers"] = c.n_layers;
  out["n_embd"] = c.n_embd;
  out["n_vocab"] = c.n_vocab;
  out["n_ctx_train"] = c.n_ctx_train;
  py::list heads, kv_heads, key_dims, value_dims, kv_layers, windows, widths;
  for (const model::LayerConfig& layer : c.layers) {
    heads.append(layer.n_heads);
    kv_heads.append(layer.n_kv_heads);
    key_dims.append(layer.key_dim);
    value_dims.append(layer.value_dim);
    kv_layers.append(layer.kv_layer);
    windows.append(layer.window);
    widths.append(layer.n_ff);
  }
  out["n_heads"] = heads;
  out["n_kv_heads"] = kv_heads;
  out["key_dims"] = key_dims;
  out["value_dims"] = value_dims;
  out["kv_layers"] = kv_layers;  // whose keys and values a layer reads; -1: its own
  out["windows"] = windows;
  out["n_ff"] = widths;
  return out;
}

model::DeviceBudget gpu_budget(double utilization, int64_t n_ctx, int64_t n_batch, int64_t max_sequences,
                               const std::string& kv_type, const std::optional<std::shared_ptr<Weights>>& beside) {
  require(utilization > 0 && utilization <= 1,
          "gpu_memory_utilization is %g; a share of the GPU's memory, above 0 and at most 1, was expected.",
          utilization);
  ops::KvType type;
  require(ops::parse_kv_type(kv_type, type), "There is no KV type %s; choose f16, bf16, f32, q8_0 or q4_0.",
          kv_type.c_str());
  // What an engine would refuse is left to it.
  return {utilization,
          std::clamp<int64_t>(n_ctx, 0, int64_t{1} << 40),
          std::clamp<int64_t>(n_batch, 1, 65536),
          std::clamp<int64_t>(max_sequences, 1, 4096),
          type,
          type,
          beside ? (*beside)->rooms : std::vector<model::DeviceRoom>()};
}

model::LoadOptions load_options(int n_threads, bool mmap, int64_t n_gpu_layers, int64_t n_cpu_moe,
                                const model::DeviceBudget& budget, const py::object& progress) {
  model::LoadOptions options;
  options.budget = budget;
  if (n_gpu_layers != 0) options.devices = device_ops();
  if (n_gpu_layers > 0 && options.devices.empty()) {
    throw Error(ErrorKind::unsupported,
                format_string("%lld layers were asked to be on the GPU, but %s.", static_cast<long long>(n_gpu_layers),
                              device_problem().c_str()),
                "Use -ngl 0 (n_gpu_layers=0), or leave it out.");
  }
  options.n_device_layers = n_gpu_layers;
  options.n_host_experts = n_cpu_moe;
  options.n_threads = n_threads;
  options.keep_raw = mmap;
  if (!progress.is_none()) {
    options.progress = [&progress](int64_t done, int64_t total) {
      const py::gil_scoped_acquire gil;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      return !progress(done, total).equal(py::bool_(false));
    };
  }
  return options;
}

int64_t n_on_gpu(const std::vector<const ops::Ops*>& each) {
  return std::count_if(each.begin(), each.end(), [](const ops::Ops* o) { return !o->memory->is_host; });
}

std::shared_ptr<Weights> load(std::shared_ptr<files::TensorSource> source, const model::LoadOptions& options) {
  return std::const_pointer_cast<Weights>(model::load_weights(std::move(source), default_ops(), options));
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::shared_ptr<model::Adapter> adapter_from_python(const std::shared_ptr<Weights>& weights,
                                                    const std::vector<std::tuple<std::string, Floats, Floats>>& parts) {
  std::vector<model::AdapterPart> converted;
  for (const auto& [name, a, b] : parts) {
    require(a.ndim() == 2 && b.ndim() == 2 && a.shape(0) == b.shape(1),
            "Adapter part %s: a must be (rank, columns) and b (rows, rank).", name.c_str());
    converted.push_back({name, a.shape(0), a.shape(1), b.shape(0), std::vector<float>(a.data(), a.data() + a.size()),
                         std::vector<float>(b.data(), b.data() + b.size())});
  }
  const py::gil_scoped_release release;
  return std::const_pointer_cast<model::Adapter>(model::make_adapter(weights, std::move(converted)));
}

}  // namespace

void register_model(py::module_& m) {
  py::class_<Weights, std::shared_ptr<Weights>> weights(
      m, "Model", "A model's weights, packed for this machine. Immutable; engines share it.");
  py::class_<model::DeviceBudget>(m, "GpuBudget",
                                  "What of the GPUs' memory a model may take, and the engine it is for.")
      .def(py::init(&gpu_budget), py::kw_only(), py::arg("utilization") = 0.9, py::arg("n_ctx") = 0,
           py::arg("n_batch") = 512, py::arg("max_sequences") = 64, py::arg("kv_type") = "f16",
           py::arg("beside") = py::none(),
           "utilization: the share of each GPU's memory that weights, KV blocks and work buffers may take together. "
           "n_ctx: 0 for not said. beside: a draft model that is loaded, whose weights, KV blocks and buffers count "
           "too.");
  weights
      .def_static(
          "load",
          [](const std::string& path, int n_threads, bool mmap, int64_t n_gpu_layers, int64_t n_cpu_moe,
             const model::DeviceBudget& gpu_budget, const py::object& progress) {
            const model::LoadOptions options =
                load_options(n_threads, mmap, n_gpu_layers, n_cpu_moe, gpu_budget, progress);
            const py::gil_scoped_release release;
            return load(files::open_gguf(path), options);
          },
          py::arg("path"), py::kw_only(), py::arg("n_threads") = 0, py::arg("mmap") = false,
          py::arg("n_gpu_layers") = -1, py::arg("n_cpu_moe") = 0, py::arg("gpu_budget") = model::DeviceBudget(),
          py::arg("progress") = py::none(),
          "Loads a GGUF file. mmap=True packs nothing (slower, least memory). n_gpu_layers: how many of the last "
          "layers go to the GPUs, -1 for as many as fit. n_cpu_moe: layers, from the first on, whose experts stay on "
          "the CPU. gpu_budget: what the layers leave room for. progress(done_bytes, total_bytes) may return False to "
          "stop.")
      .def_static(
          "assemble",
          [](const std::string& path, const py::dict& metadata, const py::list& tensors, int n_threads, bool mmap,
             int64_t n_gpu_layers, int64_t n_cpu_moe, const model::DeviceBudget& gpu_budget,
             const py::object& progress) {
            const model::LoadOptions options =
                load_options(n_threads, mmap, n_gpu_layers, n_cpu_moe, gpu_budget, progress);
            auto source = std::make_shared<files::AssembledSource>(path, metadata_from_python(metadata),
                                                                   tensors_from_python(tensors));
            const py::gil_scoped_release release;
            return load(std::move(source), options);
          },
          py::arg("path"), py::arg("metadata"), py::arg("tensors"), py::kw_only(), py::arg("n_threads") = 0,
          py::arg("mmap") = false, py::arg("n_gpu_layers") = -1, py::arg("n_cpu_moe") = 0,
          py::arg("gpu_budget") = model::DeviceBudget(), py::arg("progress") = py::none(),
          "Loads a model from metadata and tensors as write_gguf() takes them, one tensor at a time; path is for "
          "messages.")
      .def_property_readonly("config", [](const Weights& w) { return config_to_python(w.config); })
      .def_property_readonly("metadata", [](const Weights& w) { return to_python(w.source->metadata()); })
      .def_property_readonly("path", [](const Weights& w) { return w.source->path(); })
      .def_property_readonly("n_vocab", [](const Weights& w) { return w.config.n_vocab; })
      .def_property_readonly("n_embd", [](const Weights& w) { return w.config.n_embd; })
      .def_property_readonly("n_ctx_train", [](const Weights& w) { return w.config.n_ctx_train; })
      .def_property_readonly("n_gpu_layers", [](const Weights& w) { return n_on_gpu(w.layer_ops); })
      .def_property_readonly(
          "n_cpu_moe",
          [](const Weights& w) {
            int64_t n = 0;
            for (size_t l = 0; l < w.layers.size(); ++l) n += w.layers[l].experts && w.expert_ops[l]->memory->is_host;
            return n;
          },
          "Layers whose experts are on the CPU.")
      .def_property_readonly(
          "n_gpus",
          [](const Weights& w) {
            std::set<const ops::Ops*> used(w.layer_ops.begin(), w.layer_ops.end());
            return std::count_if(used.begin(), used.end(), [](const ops::Ops* o) { return !o->memory->is_host; });
          },
          "GPUs that compute layers.")
      .def_property_readonly("packed_bytes", [](const Weights& w) { return w.packed_bytes; });
  py::class_<model::Adapter, std::shared_ptr<model::Adapter>>(m, "Adapter",
                                                              "A low-rank adapter, packed for one model. Immutable.")
      .def(py::init(&adapter_from_python), py::arg("model"), py::arg("parts"),
           "parts: list of (name as in \"blk.3.attn_q\", a (rank, columns), b (rows, rank)), float32; w becomes w + b "
           "a.");
  py::class_<model::AdapterSet, std::shared_ptr<model::AdapterSet>>(
      m, "AdapterSet", "The adapters of a request and their strengths. Requests with one set share their prefixes.")
      .def(
          py::init([](const std::vector<std::pair<std::shared_ptr<model::Adapter>, float>>& adapters) {
            return std::make_shared<model::AdapterSet>(
                std::vector<std::pair<std::shared_ptr<const model::Adapter>, float>>(adapters.begin(), adapters.end()));
          }),
          py::arg("adapters"), "adapters: list of (Adapter, strength).");
  m.def("return_freed_memory", &return_freed_memory, py::call_guard<py::gil_scoped_release>(),
        "Gives memory that was freed back to the system, where the C library keeps it.");
  m.def(
      "read_config",
      [](const std::string& path) {
        const std::unique_ptr<files::TensorSource> source = files::open_gguf(path);
        return config_to_python(model::read_config(*source));
      },
      py::arg("path"), "A model file's configuration, without loading weights.");
  m.def(
      "gpu_plan",
      [](const std::string& path, const model::DeviceBudget& budget) -> py::object {
        model::LoadOptions options = load_options(1, false, -1, 0, budget, py::none());
        if (options.devices.empty()) return py::none();
        const std::unique_ptr<files::TensorSource> source = files::open_gguf(path);
        const model::Config config = model::read_config(*source);
        const auto n_fitting = [&](int64_t n_host_experts) {
          options.n_host_experts = n_host_experts;
          return n_on_gpu(model::place_layers(*source, config, default_ops(), options).layers);
        };
        py::dict plan;
        int64_t available = 0;
        for (const ops::Ops* device : options.devices) available += device->memory->available();
        plan["available_bytes"] = available;
        plan["n_gpu_layers"] = n_fitting(0);
        plan["n_cpu_moe"] = py::none();
        for (int64_t n = 0; n <= config.n_layers; ++n) {
          if (n_fitting(n) < config.n_layers) continue;
          plan["n_cpu_moe"] = n;
          break;
        }
        return plan;
      },
      py::arg("path"), py::arg("gpu_budget"),
      "What the GPUs hold of a model file, None without any. n_gpu_layers: how many of the last layers fit; n_cpu_moe: "
      "the fewest layers whose experts stay on the CPU so that all the rest fits, None where that is not enough.");
  py::list names;
  for (const model::Arch* arch : model::all_archs()) names.append(std::string(arch->name));
  m.attr("ARCHITECTURES") = py::tuple(names);
}

}  // namespace halfbyte::bindings
