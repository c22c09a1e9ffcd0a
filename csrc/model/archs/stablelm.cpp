// StableLM 3B, Zephyr and 2: layer norms, SwiGLU, rope on the first quarter of each head. The 12B has attention and MLP
// side by side behind one norm, and norms each head by weights of its own.
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  if (reader.source().find("blk.0.ffn_norm.weight") == nullptr) config.norm_places = NormPlaces::parallel;
}

}  // namespace

const Arch stablelm = {
    .name = "stablelm",
    .norm = ops::NormKind::layer,
    .heads_have_own_norms = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
