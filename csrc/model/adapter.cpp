// Finds the matrix of each part, checks that the part fits it, and packs.
#include "model/adapter.h"

#include <algorithm>
#include <atomic>
#include <set>

#include "base/error.h"
#include "formats/registry.h"

namespace halfbyte::model {

namespace {

struct Slot {
  const char* name;
  ops::Matrix LayerWeights::* matrix;
  LowRank LayerAdapter::* change;
};
constexpr Slot kSlots[] = {
    {"attn_q", &LayerWeights::q, &LayerAdapter::q},
    {"attn_k", &LayerWeights::k, &LayerAdapter::k},
    {"attn_v", &LayerWeights::v, &LayerAdapter::v},
    {"attn_qkv", &LayerWeights::qkv, &LayerAdapter::qkv},
    {"attn_output", &LayerWeights::o, &LayerAdapter::o},
    {"ffn_gate", &LayerWeights::gate, &LayerAdapter::gate},
    {"ffn_up", &LayerWeights::gate_up, &LayerAdapter::gate_up},  // where the file fuses the two
    {"ffn_up", &LayerWeights::up, &LayerAdapter::up},
    {"ffn_down", &LayerWeights::down, &LayerAdapter::down},
    {"ffn_gate_shexp", &LayerWeights::gate, &LayerAdapter::gate},
    {"ffn_up_shexp", &LayerWeights::up, &LayerAdapter::up},
    {"ffn_down_shexp", &LayerWeights::down, &LayerAdapter::down},
};

// "blk.12.attn_q" -> 12 and "attn_q"; -1 for other names.
int64_t layer_of(const std::string& name, std::string& stem) {
  const size_t dot = name.find('.', 4);
  if (name.rfind("blk.", 0) != 0 || dot == std::string::npos || dot == 4 || dot > 9) return -1;
  int64_t index = 0;
  for (size_t i = 4; i < dot; ++i) {
    if (name[i] < '0' || name[i] > '9') return -1;
    index = index * 10 + (name[i] - '0');
  }
  stem = name.substr(dot + 1);
  return index;
}

}  // namespace

std::shared_ptr<const Adapter> make_adapter(std::shared_ptr<const Weights> model, std::vector<AdapterPart> parts) {
  auto adapter = std::make_shared<Adapter>();
  const Weights& weights = *model;
  adapter->model = std::move(model);
  adapter->layers.resize(weights.layers.size());
  ThreadPool pool(1);  // adapters are small
  const formats::Format* f32 = formats::find_format("F32");
  for (AdapterPart& part : parts) {
    std::string stem;
    const int64_t index = layer_of(part.name, stem);
    const Slot* slot = nullptr;
    if (index >= 0 && index < static_cast<int64_t>(weights.layers.size())) {
      for (const Slot& each : kSlots) {
        const LayerWeights& layer = weights.layers[static_cast<size_t>(index)];
        const ops::Matrix& matrix = layer.*each.matrix;
        // What a gate weighs afterwards, no adapter can be added to.
        const bool is_weighed = each.matrix == &LayerWeights::down && layer.experts.shared_gate;
        if (stem == each.name && matrix.name == part.name + ".weight" && !is_weighed && slot == nullptr) slot = &each;
      }
    }
    if (slot == nullptr) {
      throw Error(ErrorKind::unsupported, "An adapter changes " + part.name + ", which no request can switch.",
                  "Merge it into the model instead (halfbyte merge).");
    }
    const ops::Matrix& matrix = weights.layers[static_cast<size_t>(index)].*slot->matrix;
    if (part.rank < 1 || matrix.n_rows != part.n_rows || matrix.n_cols != part.n_cols) {
      throw Error(
          ErrorKind::format,
          format_string("An adapter's change of %s is %lld x %lld; the model's matrix is %lld x %lld.",
                        part.name.c_str(), static_cast<long long>(part.n_rows), static_cast<long long>(part.n_cols),
                        static_cast<long long>(matrix.n_rows), static_cast<long long>(matrix.n_cols)),
          "It was made for another model.");
    }
    LowRank& change = adapter->layers[static_cast<size_t>(index)].*slot->change;
    if (change.a) throw Error(ErrorKind::format, "An adapter changes " + part.name + " twice.");
    const ops::Ops& ops = *weights.layer_ops[static_cast<size_t>(index)];
    const auto packed = [&](std::vector<float>& numbers, int64_t n_rows, int64_t n_cols) {
      require(static_cast<int64_t>(numbers.size()) == n_rows * n_cols, "Adapter part %s: %zu numbers.",
              part.name.c_str(), numbers.size());
      adapter->kept.push_back(std::move(numbers));
      const std::vector<float>& kept = adapter->kept.back();
      ops::Matrix m = ops.pack({f32, n_rows, n_cols, std::as_bytes(std::span(kept))}, false, pool);
      if (m.layout != ops::Layout::raw) adapter->kept.pop_back();
      return m;
    };
    change.a = packed(part.a, part.rank, part.n_cols);
    change.b = packed(part.b, part.n_rows, part.rank);
    adapter->max_rank = std::max(adapter->max_rank, part.rank);
  }
  for (const ops::Ops* ops : std::set(weights.layer_ops.begin(), weights.layer_ops.end())) {
    if (ops->finish_packing != nullptr) ops->finish_packing();
  }
  return adapter;
}

namespace {

int32_t next_id() {
  static std::atomic<int32_t> last{0};
  return ++last;
}

}  // namespace

AdapterSet::AdapterSet(std::vector<std::pair<std::shared_ptr<const Adapter>, float>> list)
    : adapters(std::move(list)), id(next_id()) {
  require(!adapters.empty(), "A set of no adapters.");
}

void check_adapters(const AdapterSet& set, const Weights& weights) {
  for (const auto& [adapter, strength] : set.adapters)
    require(adapter->model.get() == &weights, "An adapter was loaded for another model than the one that runs.");
}

}  // namespace halfbyte::model
