// SmolLM3: the llama layer; every fourth layer has no rope.
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader&, Config& config) {
  for (size_t i = 0; i < config.layers.size(); ++i) config.layers[i].uses_rope = (i + 1) % 4 != 0;
}

}  // namespace

const Arch smollm3 = {
    .name = "smollm3",
    .rope = ops::RopeKind::adjacent,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
