// Command R7B and A, Aya: attention and MLP side by side behind one layer norm; three layers with a window and rope to
// one that sees everything, without rope.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 4096, 0, kMaxContext), 4);
  for (LayerConfig& layer : config.layers) layer.uses_rope = layer.window > 0;
  multiply_logits(config);
}

}  // namespace

const Arch cohere2 = {
    .name = "cohere2",
    .norm = ops::NormKind::layer,
    .norm_places = NormPlaces::parallel,
    .rope = ops::RopeKind::adjacent,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
