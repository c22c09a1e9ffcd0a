// Few groups are better than many; unused slots are waste that is kept small.
#include "model/kv_groups.h"

#include <algorithm>
#include <compare>
#include <map>

namespace halfbyte::model {

namespace {

constexpr int64_t kWasteShare = 8;  // slots that stay empty: at most this part of all

// What a slot is made for.
struct Shape {
  int n_kv_heads, key_dim, value_dim;
  const ops::Memory* memory;  // where they lie
  auto operator<=>(const Shape&) const = default;

  int64_t n_values() const { return int64_t{n_kv_heads} * (key_dim + value_dim); }
};

using Layers = std::vector<int32_t>;

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

struct Partition {
  std::map<int64_t, int64_t> n_groups;  // of layers with this window
  std::map<Shape, int64_t> n_slots;     // of this shape in every group
};

// Groups of about `size` layers.
Partition partition(const std::map<int64_t, std::map<Shape, Layers>>& kinds, int64_t size) {
  Partition p;
  for (const auto& [window, shapes] : kinds) {
    int64_t n = 0;
    for (const auto& [shape, layers] : shapes) n += static_cast<int64_t>(layers.size());
    p.n_groups[window] = divide_up(n, size);
    for (const auto& [shape, layers] : shapes) {
      int64_t& n_slots = p.n_slots[shape];
      n_slots = std::max(n_slots, divide_up(static_cast<int64_t>(layers.size()), p.n_groups[window]));
    }
  }
  return p;
}

// Numbers of a position that all groups have room for.
int64_t size_of(const Partition& p) {
  int64_t n_groups = 0, n_values = 0;
  for (const auto& [window, n] : p.n_groups) n_groups += n;
  for (const auto& [shape, n] : p.n_slots) n_values += n * shape.n_values();
  return n_groups * n_values;
}

}  // namespace

KvGroups kv_groups(const Weights& weights) {
  const std::vector<LayerConfig>& layers = weights.config.layers;
  const auto n_layers = static_cast<int32_t>(layers.size());
  std::map<int64_t, std::map<Shape, Layers>> kinds;
  std::map<Shape, Layers> all;
  int64_t n_values = 0, longest = 0;
  for (int32_t l = 0; l < n_layers; ++l) {
    const LayerConfig& layer = layers[static_cast<size_t>(l)];
    if (layer.kv_layer >= 0) continue;
    const Shape shape = {layer.n_kv_heads, layer.key_dim, layer.value_dim,
                         weights.layer_ops[static_cast<size_t>(l)]->memory};
    kinds[layer.window][shape].push_back(l);
    all[shape].push_back(l);
    n_values += shape.n_values();
    longest = std::max(longest, layer.window);
  }
  int64_t size = n_layers;
  while (size > 0 && size_of(partition(kinds, size)) > n_values + n_values / kWasteShare) --size;
  if (size == 0) {
    // Too uneven: one group, which sees as far as its farthest layer.
    const int64_t window = kinds.contains(0) ? 0 : longest;
    kinds.clear();
    kinds[window] = all;
    size = n_layers;
  }
  const Partition chosen = partition(kinds, size);
  KvGroups groups;
  groups.group_of.resize(static_cast<size_t>(n_layers));
  groups.slot_of.resize(static_cast<size_t>(n_layers));
  std::map<Shape, int64_t> first_slot;
  for (const auto& [shape, n] : chosen.n_slots) {
    first_slot[shape] = static_cast<int64_t>(groups.example.size());
    groups.example.insert(groups.example.end(), static_cast<size_t>(n), all.at(shape).front());
  }
  for (const auto& [window, shapes] : kinds) {
    for (const auto& [shape, members] : shapes) {
      const int64_t n_slots = chosen.n_slots.at(shape);
      for (size_t i = 0; i < members.size(); ++i) {
        const auto l = static_cast<size_t>(members[i]);
        groups.group_of[l] = static_cast<int32_t>(groups.n_groups() + static_cast<int64_t>(i) / n_slots);
        groups.slot_of[l] = static_cast<int32_t>(first_slot.at(shape) + static_cast<int64_t>(i) % n_slots);
      }
    }
    groups.windows.insert(groups.windows.end(), static_cast<size_t>(chosen.n_groups.at(window)), window);
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].kv_layer < 0) continue;
    groups.group_of[l] = groups.group_of[static_cast<size_t>(layers[l].kv_layer)];
    groups.slot_of[l] = groups.slot_of[static_cast<size_t>(layers[l].kv_layer)];
  }
  return groups;
}

}  // namespace halfbyte::model
