// What groups leave empty of their blocks is waste that is kept small, above all where blocks are never given back;
// few groups are better than many.
#include "model/kv_groups.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace halfbyte::model {

namespace {

constexpr int64_t kWasteShare = 8;  // what stays empty: at most this part of all

// A layer with keys and values of its own.
struct Member {
  size_t layer = 0;
  int64_t n_values = 0;  // of a position
};

// Layers that look equally far back, by memory. Of each memory's the largest come first, and groups take turns: group
// i % n has the i-th, so that the first group is the fullest.
struct Kind {
  std::map<const ops::Memory*, std::vector<Member>> members;
  int64_t n_values = 0;
  int64_t most_groups = 0;

  void add(const ops::Memory* memory, Member member) {
    std::vector<Member>& here = members[memory];
    here.push_back(member);
    n_values += member.n_values;
    most_groups = std::max(most_groups, static_cast<int64_t>(here.size()));
  }
  // So many that each takes `room` numbers of a position, or a little more.
  int64_t n_groups(int64_t room) const { return std::min(most_groups, (n_values + room - 1) / room); }
};

using Kinds = std::map<int64_t, Kind>;  // by window

// Sizes that groups may have: those of one layer, of two, and so on of every kind; the largest first.
std::set<int64_t, std::greater<>> rooms(const Kinds& kinds) {
  std::set<int64_t, std::greater<>> found;
  for (const auto& [window, kind] : kinds) {
    int64_t room = 0;
    for (const auto& [memory, members] : kind.members) {
      for (const Member& member : members) found.insert(room += member.n_values);
    }
  }
  return found;
}

// Numbers that groups have room for.
struct Extent {
  int64_t all = 0;   // of a position that all look at
  int64_t full = 0;  // of one behind every window
};

Extent extent_of(const Kinds& kinds, int64_t room) {
  int64_t n_groups = 0;
  std::map<const ops::Memory*, int64_t> widths;  // of a block
  for (const auto& [window, kind] : kinds) {
    const int64_t n = kind.n_groups(room);
    n_groups += n;
    for (const auto& [memory, members] : kind.members) {
      int64_t fullest = 0;
      for (size_t i = 0; i < members.size(); i += static_cast<size_t>(n)) fullest += members[i].n_values;
      widths[memory] = std::max(widths[memory], fullest);
    }
  }
  int64_t width = 0;
  for (const auto& [memory, n_values] : widths) width += n_values;
  return {n_groups * width, kinds.contains(0) ? kinds.at(0).n_groups(room) * width : 0};
}

// The best of rooms(); 0 where layers are too uneven.
int64_t best_room(const Kinds& kinds, int64_t n_values) {
  int64_t best = 0, least = INT64_MAX;
  for (const int64_t room : rooms(kinds)) {
    const Extent extent = extent_of(kinds, room);
    if (extent.all > n_values + n_values / kWasteShare || extent.full >= least) continue;
    best = room;
    least = extent.full;
  }
  return best;
}

}  // namespace

KvGroups kv_groups(const std::vector<LayerConfig>& layers, const std::vector<const ops::Memory*>& memories) {
  Kinds kinds;
  Kind all;
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerConfig& layer = layers[l];
    if (layer.kv_layer >= 0) continue;
    const Member member = {l, int64_t{layer.n_kv_heads} * (layer.key_dim + layer.value_dim)};
    kinds[layer.window].add(memories[l], member);
    all.add(memories[l], member);
  }
  for (auto& [window, kind] : kinds) {
    for (auto& [memory, members] : kind.members) {
      std::stable_sort(members.begin(), members.end(),
                       [](const Member& a, const Member& b) { return a.n_values > b.n_values; });
    }
  }
  int64_t room = best_room(kinds, all.n_values);
  if (room == 0) {
    // One group, which sees as far as its farthest layer.
    kinds = {{kinds.contains(0) ? 0 : kinds.rbegin()->first, all}};
    room = all.n_values;
  }
  KvGroups groups;
  groups.group_of.resize(layers.size());
  for (const auto& [window, kind] : kinds) {
    const int64_t first = groups.n_groups(), n = kind.n_groups(room);
    groups.windows.resize(static_cast<size_t>(first + n), window);
    for (const auto& [memory, members] : kind.members) {
      for (size_t i = 0; i < members.size(); ++i)
        groups.group_of[members[i].layer] = static_cast<int32_t>(first + static_cast<int64_t>(i) % n);
    }
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].kv_layer >= 0) groups.group_of[l] = groups.group_of[static_cast<size_t>(layers[l].kv_layer)];
  }
  return groups;
}

KvGroups kv_groups(const Weights& weights) {
  std::vector<const ops::Memory*> memories;
  for (const ops::Ops* ops : weights.layer_ops) memories.push_back(ops->memory);
  return kv_groups(weights.config.layers, memories);
}

std::vector<cache::KvLayer> kv_layers(const Weights& weights, const KvGroups& groups, ops::KvType k_type,
                                      ops::KvType v_type) {
  std::vector<cache::KvLayer> out;
  for (const LayerConfig& layer : weights.config.layers) {
    const size_t l = out.size();
    out.push_back({{k_type, v_type, layer.n_kv_heads, layer.key_dim, layer.value_dim},
                   weights.layer_ops[l]->memory,
                   groups.group_of[l],
                   layer.kv_layer});
  }
  return out;
}

}  // namespace halfbyte::model
