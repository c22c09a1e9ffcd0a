// EXAONE 4: norms after each block, and on each head's q and k. The large one has three layers with a window and rope
// to one that sees everything, without rope.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  const int64_t window = config.layers.front().window;
  if (window == 0) return;
  alternate_windows(reader, config, window, 4);
  for (LayerConfig& layer : config.layers) layer.uses_rope = layer.window > 0;
}

}  // namespace

const Arch exaone4 = {.name = "exaone4", .norm_places = NormPlaces::post, .customize = customize};

}  // namespace halfbyte::model::archs
