// Command R and R+: attention and MLP side by side behind one layer norm, gated; R+ norms each head by weights of its
// own.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader&, Config& config) {
  multiply_logits(config);
}

}  // namespace

const Arch command_r = {
    .name = "command-r",
    .norm = ops::NormKind::layer,
    .norm_places = NormPlaces::parallel,
    .rope = ops::RopeKind::adjacent,
    .heads_have_own_norms = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
