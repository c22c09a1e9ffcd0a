// _core.testing: one op at one CPU level on numpy arrays, for tests/kernels and bench/kernels.py.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/cpu_level.h"
#include "base/error.h"
#include "bindings/bind.h"
#include "engine/stop.h"
#include "formats/registry.h"
#include "ops/kv_layout.h"

namespace halfbyte::bindings {

const ops::Ops& ops_at_level(const std::string& level);  // cpu_entry.cpp
void register_testing_engine(py::module_& testing);      // bind_testing_engine.cpp

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// A pool and its scratch for the time of one call.
struct Run {
  const ops::Ops& ops;
  ThreadPool pool;
  ops::Context context;

  Run(const std::string& level, int n_threads) : ops(ops_at_level(level)), pool(n_threads) {
    context.pool = &pool;
    context.scratch = ops.create_scratch(pool);
  }
  ~Run() { ops.destroy_scratch(context.scratch); }
};

ops::Matrix packed(Run& run, const std::string& format_name, const py::bytes& blocks, int64_t n_rows, int64_t n_cols,
                   bool keep_raw) {
  const formats::Format* format = formats::find_format(format_name);
  require(format != nullptr, "There is no block format named %s.", format_name.c_str());
  const std::string_view bytes = blocks;
  return run.ops.pack({format, n_rows, n_cols, std::as_bytes(std::span(bytes))}, keep_raw, run.pool);
}

// Seconds of the fastest of n_repeats calls.
double fastest(int n_repeats, FunctionRef<void()> job) {
  double best = 1e30;
  for (int i = 0; i < n_repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    job();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// x (n_tokens, n_cols) times W^T; returns (n_tokens, n_rows), and the seconds of the fastest of n_repeats products.
py::tuple linear(const std::string& level, const std::string& format, const py::bytes& blocks, const Floats& x,
                 int n_threads, bool keep_raw, int n_repeats) {
  require(x.ndim() == 2, "x must have two axes.");
  Run run(level, n_threads);
  const formats::Format* f = formats::find_format(format);
  require(f != nullptr && x.shape(1) % f->block_weights == 0, "%s rows of %zd columns.", format.c_str(), x.shape(1));
  const int64_t n_rows = static_cast<int64_t>(std::string_view(blocks).size()) / f->row_bytes(x.shape(1));
  const ops::Matrix w = packed(run, format, blocks, n_rows, x.shape(1), keep_raw);
  Floats out(std::vector<py::ssize_t>{x.shape(0), n_rows});
  const ops::Projection p[] = {{.weight = &w, .out = out.mutable_data(), .out_stride = n_rows}};
  const ops::RowRun runs[] = {{0, x.shape(0), ops::Role::prefill}};
  double best = 0;
  {
    const py::gil_scoped_release release;
    best = fastest(n_repeats, [&] {
      run.ops.linear(run.context, x.data(), x.shape(1), std::span<const ops::RowRun>(runs),
                     std::span<const ops::Projection>(p));
    });
  }
  return py::make_tuple(out, best, w.bytes());
}

Floats norm(const std::string& level, bool layer, const Floats& x, const Floats& weight, float eps) {
  Run run(level, 1);
  Floats out(std::vector<py::ssize_t>{x.shape(0), x.shape(1)});
  run.ops.norm(run.context, layer ? ops::NormKind::layer : ops::NormKind::rms, x.data(), x.shape(1), out.mutable_data(),
               x.shape(1), x.shape(0), x.shape(1), weight.data(), nullptr, eps);
  return out;
}

Floats glu(const std::string& level, int activation, const Floats& gate, const Floats& up) {
  Run run(level, 1);
  Floats out(std::vector<py::ssize_t>{gate.shape(0), gate.shape(1)});
  run.ops.glu(run.context, static_cast<ops::Activation>(activation), gate.data(), gate.shape(1), up.data(),
              gate.shape(1), out.mutable_data(), gate.shape(1), gate.shape(0), gate.shape(1));
  return out;
}

// Stores k, v (n_kv, n_kv_heads, dim) at positions 0.. of a sequence whose blocks are `table`, then runs queries
// (n_rows, n_heads, dim) at first_position.. over them.
py::tuple attention(const std::string& level, const std::string& kv_type, const Floats& q, const Floats& k,
                    const Floats& v, const Ints& table, int64_t first_position, float scale, float softcap,
                    int64_t window, const std::optional<Floats>& sinks, int n_threads, int n_repeats) {
  ops::KvType type;
  require(ops::parse_kv_type(kv_type, type), "There is no KV type %s.", kv_type.c_str());
  Run run(level, n_threads);
  const ops::KvLayout layout = {type, type, static_cast<int>(k.shape(1)), static_cast<int>(k.shape(2)),
                                static_cast<int>(v.shape(2))};
  int32_t n_blocks = 0;
  std::vector<int64_t> slots;
  for (py::ssize_t i = 0; i < table.size(); ++i) n_blocks = std::max(n_blocks, table.data()[i] + 1);
  for (py::ssize_t p = 0; p < k.shape(0); ++p) slots.push_back(int64_t{table.data()[p / 16]} * 16 + p % 16);
  Buffer kv(static_cast<size_t>(n_blocks * layout.block_bytes()), "A test's KV cache");
  std::memset(kv.data(), 0, kv.size());
  run.ops.store_kv(run.context, layout, kv.data(), k.data(), k.shape(1) * k.shape(2), v.data(), v.shape(1) * v.shape(2),
                   k.shape(0), slots.data());
  Floats out(std::vector<py::ssize_t>{q.shape(0), q.shape(1), v.shape(2)});
  const ops::AttentionSpan span = {0, q.shape(0), first_position, ops::Role::prefill, table.data()};
  const ops::AttentionArgs args = {.query = q.data(),
                                   .query_stride = q.shape(1) * q.shape(2),
                                   .out = out.mutable_data(),
                                   .out_stride = q.shape(1) * v.shape(2),
                                   .kv = kv.data(),
                                   .layout = layout,
                                   .n_heads = static_cast<int>(q.shape(1)),
                                   .scale = scale,
                                   .softcap = softcap,
                                   .window = window,
                                   .sinks = sinks ? sinks->data() : nullptr,
                                   .spans = std::span(&span, 1)};
  const py::gil_scoped_release release;
  const double best = fastest(n_repeats, [&] { run.ops.attention(run.context, args); });
  const py::gil_scoped_acquire gil;
  return py::make_tuple(out, best);
}

}  // namespace

void register_testing(py::module_& m) {
  py::module_ t =
      m.def_submodule("testing", "One op at one CPU level on numpy arrays. For tests and micro-benchmarks.");
  t.def("linear", &linear, py::arg("level"), py::arg("format"), py::arg("blocks"), py::arg("x"),
        py::arg("n_threads") = 1, py::arg("keep_raw") = false, py::arg("n_repeats") = 1,
        "(x @ W.T, fastest seconds, bytes of W as packed)");
  t.def("norm", &norm, py::arg("level"), py::arg("layer"), py::arg("x"), py::arg("weight"), py::arg("eps"));
  t.def("glu", &glu, py::arg("level"), py::arg("activation"), py::arg("gate"), py::arg("up"));
  t.def("attention", &attention, py::arg("level"), py::arg("kv_type"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("table"), py::arg("first_position"), py::arg("scale"), py::arg("softcap") = 0.0f, py::arg("window") = 0,
        py::arg("sinks") = py::none(), py::arg("n_threads") = 1, py::arg("n_repeats") = 1,
        "(attended values, fastest seconds)");
  t.def(
      "set_cpu_level",
      [](const std::string& level) {
        for (const CpuLevel each : supported_cpu_levels()) {
          if (cpu_level_name(each) == level) return set_cpu_level_limit(each);
        }
        throw Error(ErrorKind::invalid_argument, "This machine has no CPU level " + level + ".");
      },
      py::arg("level"), "Models loaded from now on use this level.");
  register_testing_engine(t);
  py::class_<engine::StopMatcher>(t, "StopMatcher")
      .def(py::init([](const std::vector<py::bytes>& stops, bool include) {
             std::vector<std::string> strings;
             for (const py::bytes& stop : stops) strings.emplace_back(std::string_view(stop));
             return engine::StopMatcher(std::move(strings), include);
           }),
           py::arg("stops"), py::arg("include_stop"))
      .def("feed", [](engine::StopMatcher& s, const py::bytes& b) { return py::bytes(s.feed(std::string_view(b))); })
      .def("flush", [](engine::StopMatcher& s) { return py::bytes(s.flush()); })
      .def_property_readonly("match", [](const engine::StopMatcher& s) -> py::object {
        return s.has_matched() ? py::object(py::bytes(s.match())) : py::none();
      });
}

}  // namespace halfbyte::bindings
