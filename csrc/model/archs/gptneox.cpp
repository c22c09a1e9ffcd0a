// GPT-NeoX, Pythia, StableLM-alpha: attention and MLP side by side or one after the other, as the file says.
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  if (!reader.flag_or("use_parallel_residual", true)) config.norm_places = NormPlaces::pre;
}

}  // namespace

const Arch gptneox = {
    .name = "gptneox",
    .norm = ops::NormKind::layer,
    .norm_places = NormPlaces::parallel,
    .activation = ops::Activation::gelu,
    .gated_mlp = false,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
