// OLMo 2 and 3: norms only after each block, and RMS norms over the whole rows of q and k. OLMo 3 has three layers with
// a window to one that sees everything, whose rope alone is stretched.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  const int64_t window = config.layers.front().window;
  if (window == 0) return;
  alternate_windows(reader, config, window, 4);
  for (LayerConfig& layer : config.layers) {
    if (layer.window > 0) layer.rope_freq_scale = 1.0;
  }
}

}  // namespace

const Arch olmo2 = {.name = "olmo2", .norm_places = NormPlaces::post, .customize = customize};

}  // namespace halfbyte::model::archs
