// _core.testing: block pool, prefix tree, layers' places in blocks, scheduler and step costs without a model, for
// tests/cache and tests/scheduler.
#include <pybind11/stl.h>

#include <array>

#include "base/error.h"
#include "bindings/bind.h"
#include "cache/block_pool.h"
#include "cache/kv_places.h"
#include "cache/prefix_tree.h"
#include "engine/cost.h"
#include "engine/scheduler.h"
#include "model/kv_groups.h"

namespace halfbyte::bindings {

namespace {

using cache::BlockPool;
using cache::PrefixTree;
using engine::Scheduler;
using engine::StepCost;

// A scheduler and the pool that it refers to.
struct TestScheduler {
  BlockPool pool;
  Scheduler scheduler;

  TestScheduler(int32_t n_blocks, engine::SchedulerLimits limits) : pool(n_blocks), scheduler(pool, limits) {}
};

py::dict rows_to_python(const engine::PlannedRows& rows) {
  py::dict out;
  out["id"] = rows.id;
  out["first_position"] = rows.first_position;
  out["n_rows"] = rows.n_rows;
  out["is_prefill"] = rows.role == ops::Role::prefill;
  out["n_logits"] = rows.n_logits;
  out["is_newest"] = rows.is_newest;
  return out;
}

engine::PlannedRows rows_from_python(const py::dict& rows) {
  return {rows["id"].cast<uint64_t>(),      rows["first_position"].cast<int64_t>(),
          rows["n_rows"].cast<int64_t>(),   rows["is_prefill"].cast<bool>() ? ops::Role::prefill : ops::Role::decode,
          rows["n_logits"].cast<int64_t>(), rows["is_newest"].cast<bool>()};
}

// Memories that nobody reads: a layer's number there tells them apart.
const std::array<ops::Memory, 4> kMemories = {};

// (kv heads, dimensions of a head, memory, group, source)
using LayerTuple = std::tuple<int, int, size_t, int32_t, int64_t>;

py::tuple kv_places(const std::vector<LayerTuple>& layers, const std::string& kv_type) {
  ops::KvType type;
  require(ops::parse_kv_type(kv_type, type), "There is no KV type %s.", kv_type.c_str());
  std::vector<cache::KvLayer> given;
  for (const auto& [heads, dim, memory, group, source] : layers)
    given.push_back({{type, type, heads, dim, dim}, &kMemories.at(memory), group, source});
  const cache::KvPlaces places = cache::kv_places(given);
  py::list slots, found;
  for (const auto& slot : places.slots) slots.append(py::make_tuple(slot.memory - kMemories.data(), slot.n_bytes));
  for (size_t l = 0; l < given.size(); ++l) {
    const cache::KvPlaces::Place& place = places.layers[l];
    found.append(py::make_tuple(place.slot, place.offset, given[l].layout.block_bytes()));
  }
  return py::make_tuple(slots, found);
}

// layers: (window, kv heads, dimensions of a head, memory, the layer whose keys and values it reads or -1)
py::tuple kv_groups(const std::vector<std::tuple<int64_t, int, int, size_t, int64_t>>& layers) {
  std::vector<model::LayerConfig> given;
  std::vector<const ops::Memory*> memories;
  for (const auto& [window, heads, dim, memory, source] : layers) {
    model::LayerConfig& layer = given.emplace_back();
    layer.window = window;
    layer.n_kv_heads = heads;
    layer.key_dim = layer.value_dim = dim;
    layer.kv_layer = source;
    memories.push_back(&kMemories.at(memory));
  }
  const model::KvGroups groups = model::kv_groups(given, memories);
  return py::make_tuple(groups.windows, groups.group_of);
}

}  // namespace

void register_testing_engine(py::module_& t) {
  py::class_<BlockPool>(t, "BlockPool")
      .def(py::init<int32_t>(), py::arg("n_blocks"))
      .def_property_readonly("n_free", &BlockPool::n_free)
      .def("allocate", &BlockPool::allocate)
      .def("add_ref", &BlockPool::add_ref, py::arg("block"))
      .def("release", &BlockPool::release, py::arg("block"))
      .def("ref_count", &BlockPool::ref_count, py::arg("block"))
      .def("check_integrity", &BlockPool::check_integrity, py::arg("expected_refs") = std::vector<int32_t>());

  t.def("kv_places", &kv_places, py::arg("layers"), py::arg("kv_type") = "f16",
        "Slots (memory, bytes) of a block, and of each layer (kv heads, dim, memory, group, source) its slot, offset "
        "there and bytes.");
  t.def("kv_groups", &kv_groups, py::arg("layers"),
        "The groups' windows, and the group of each layer (window, kv heads, dim, memory, source).");

  py::class_<PrefixTree>(t, "PrefixTree")
      .def(py::init<BlockPool&, std::vector<int64_t>>(), py::arg("pool"), py::arg("windows") = std::vector<int64_t>{0},
           py::keep_alive<1, 2>())
      .def("match", [](PrefixTree& tree, const std::vector<int32_t>& tokens) { return tree.match(tokens); })
      .def("n_known", [](const PrefixTree& tree, const std::vector<int32_t>& tokens) { return tree.n_known(tokens); })
      .def("insert", [](PrefixTree& tree, const std::vector<int32_t>& tokens,
                        const cache::BlockTables& tables) { tree.insert(tokens, tables); })
      .def("evict", &PrefixTree::evict, py::arg("n"))
      .def_property_readonly("n_blocks", &PrefixTree::n_blocks)
      .def_property_readonly("n_evictable", &PrefixTree::n_evictable);

  py::class_<TestScheduler>(t, "Scheduler")
      .def(py::init([](int32_t n_blocks, int64_t n_batch, int64_t max_sequences, int64_t max_logit_rows, bool cache,
                       std::vector<int64_t> windows) {
             return std::make_unique<TestScheduler>(
                 n_blocks, engine::SchedulerLimits{n_batch, max_sequences, max_logit_rows, cache, std::move(windows)});
           }),
           py::arg("n_blocks"), py::kw_only(), py::arg("n_batch") = 512, py::arg("max_sequences") = 64,
           py::arg("max_logit_rows") = 64, py::arg("prefix_cache") = true, py::arg("windows") = std::vector<int64_t>{0})
      .def(
          "add",
          [](TestScheduler& s, uint64_t id, std::vector<int32_t> prompt, int32_t priority, uint64_t client,
             bool every_row, bool every_logit, bool no_logits, bool is_passing) {
            s.scheduler.add(id, {.prompt = std::move(prompt),
                                 .priority = priority,
                                 .client = client,
                                 .every_row = every_row,
                                 .every_logit = every_logit,
                                 .no_logits = no_logits,
                                 .is_passing = is_passing});
          },
          py::arg("id"), py::arg("prompt"), py::kw_only(), py::arg("priority") = 0, py::arg("client") = 0,
          py::arg("every_row") = false, py::arg("every_logit") = false, py::arg("no_logits") = false,
          py::arg("is_passing") = false)
      .def("append", [](TestScheduler& s, uint64_t id, int32_t token) { return s.scheduler.append(id, token); })
      .def("draft",
           [](TestScheduler& s, uint64_t id, const std::vector<int32_t>& tokens) { s.scheduler.draft(id, tokens); })
      .def("restart", [](TestScheduler& s, uint64_t id,
                         std::vector<int32_t> tokens) { s.scheduler.restart(id, std::move(tokens)); })
      .def("fork",
           [](TestScheduler& s, uint64_t id, uint64_t new_id) {
             std::vector<std::pair<int32_t, int32_t>> copies;
             for (const engine::BlockCopy& copy : s.scheduler.fork(id, new_id)) copies.emplace_back(copy.from, copy.to);
             return copies;
           })
      .def("finish", [](TestScheduler& s, uint64_t id) { s.scheduler.finish(id); })
      .def(
          "plan",
          [](TestScheduler& s, int64_t prefill_rows) {
            py::list out;
            for (const engine::PlannedRows& rows : s.scheduler.plan(prefill_rows)) out.append(rows_to_python(rows));
            return out;
          },
          py::arg("prefill_rows") = INT64_MAX)
      .def("complete",
           [](TestScheduler& s, const std::vector<py::dict>& plan) {
             std::vector<engine::PlannedRows> rows;
             for (const py::dict& each : plan) rows.push_back(rows_from_python(each));
             s.scheduler.complete(rows);
           })
      .def("tokens",
           [](TestScheduler& s, uint64_t id) {
             const auto tokens = s.scheduler.tokens(id);
             return std::vector<int32_t>(tokens.begin(), tokens.end());
           })
      .def("block_tables", [](TestScheduler& s, uint64_t id) { return s.scheduler.block_tables(id); })
      .def("n_cached", [](TestScheduler& s, uint64_t id) { return s.scheduler.n_cached(id); })
      .def("is_streaming", [](TestScheduler& s, uint64_t id) { return s.scheduler.is_streaming(id); })
      .def_property_readonly("n_running", [](TestScheduler& s) { return s.scheduler.n_running(); })
      .def_property_readonly("n_waiting", [](TestScheduler& s) { return s.scheduler.n_waiting(); })
      .def_property_readonly("n_preemptions", [](TestScheduler& s) { return s.scheduler.n_preemptions(); })
      .def_property_readonly("n_free", [](TestScheduler& s) { return s.pool.n_free(); })
      .def("forget_prefixes", [](TestScheduler& s) { s.scheduler.forget_prefixes(); })
      .def("check_integrity", [](TestScheduler& s) { s.scheduler.check_integrity(); });

  py::class_<StepCost>(t, "StepCost")
      .def(py::init<>())
      .def("observe", &StepCost::observe, py::arg("n_prompt_rows"), py::arg("n_stream_rows"), py::arg("seconds"))
      .def("stream_seconds", &StepCost::stream_seconds, py::arg("n_rows"))
      .def("stream_row_seconds", &StepCost::stream_row_seconds)
      .def("prompt_seconds", &StepCost::prompt_seconds, py::arg("n_rows"))
      .def("prompt_rows_within", &StepCost::prompt_rows_within, py::arg("seconds"), py::arg("most"))
      .def("prompt_rows_beside", &StepCost::prompt_rows_beside, py::arg("n_stream_rows"), py::arg("most"));
}

}  // namespace halfbyte::bindings
