// Lays the layers of each group in a row, and cuts all rows where none is in the way.
#include "cache/kv_places.h"

#include <algorithm>
#include <map>
#include <set>

namespace halfbyte::cache {

namespace {

constexpr int64_t kAlignment = 64;  // of a layer's part of a block: kernels load whole vectors

int64_t bytes_of(const KvLayer& layer) {
  return (layer.layout.block_bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

// The layers of one memory; adds their slots.
void place(std::span<const KvLayer> layers, const ops::Memory* memory, KvPlaces& out) {
  std::map<int32_t, int64_t> ends;          // of each group's row so far
  std::map<int64_t, int64_t> first_begins;  // by a layer's end, where the widest that ends there begins
  std::vector<int64_t> begins(layers.size());
  const auto is_here = [&](size_t l) { return layers[l].memory == memory && layers[l].source < 0; };
  for (size_t l = 0; l < layers.size(); ++l) {
    if (!is_here(l)) continue;
    int64_t& end = ends[layers[l].group];
    begins[l] = end;
    end += bytes_of(layers[l]);
    const auto [known, is_new] = first_begins.try_emplace(end, begins[l]);
    if (!is_new) known->second = std::min(known->second, begins[l]);
  }
  // From the back: a cut is where no layer that ends behind it has begun before it.
  std::set<int64_t> cuts;  // ends of slots
  int64_t first_begin = INT64_MAX;
  for (auto each = first_begins.rbegin(); each != first_begins.rend(); ++each) {
    if (each->first <= first_begin) cuts.insert(each->first);
    first_begin = std::min(first_begin, each->second);
  }
  const auto first_slot = static_cast<int32_t>(out.slots.size());
  for (int64_t begin = 0; const int64_t end : cuts) {
    out.slots.push_back({memory, end - begin});
    begin = end;
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    if (!is_here(l)) continue;
    const auto slot_end = cuts.upper_bound(begins[l]);
    const int64_t slot_begin = slot_end == cuts.begin() ? 0 : *std::prev(slot_end);
    out.layers[l] = {first_slot + static_cast<int32_t>(std::distance(cuts.begin(), slot_end)), begins[l] - slot_begin};
  }
}

}  // namespace

int64_t KvPlaces::block_bytes(const ops::Memory& memory) const {
  int64_t n_bytes = 0;
  for (const Slot& slot : slots) n_bytes += slot.memory == &memory ? slot.n_bytes : 0;
  return n_bytes;
}

KvPlaces kv_places(std::span<const KvLayer> layers) {
  KvPlaces out;
  out.layers.resize(layers.size());
  std::vector<const ops::Memory*> placed;
  for (const KvLayer& layer : layers) {
    if (std::find(placed.begin(), placed.end(), layer.memory) != placed.end()) continue;
    placed.push_back(layer.memory);
    place(layers, layer.memory, out);
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].source >= 0) out.layers[l] = out.layers[static_cast<size_t>(layers[l].source)];
  }
  return out;
}

}  // namespace halfbyte::cache
