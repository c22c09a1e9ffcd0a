// GLM 4.5 to 4.7 (Air and the large ones): experts by sigmoids and a bias that takes part in the choice, a shared one,
// dense layers first. The last layers predict further tokens and are left out.
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  if (reader.number_or("expert_gating_func", 0, 0, 3) == 0) config.experts.gating = ops::Gating::sigmoid;
  config.n_layers -= reader.number_or("nextn_predict_layers", 0, 0, config.n_layers - 1);
  config.layers.resize(static_cast<size_t>(config.n_layers));
}

}  // namespace

const Arch glm4moe = {.name = "glm4moe", .customize = customize};

}  // namespace halfbyte::model::archs
