// MiniCPM 1, 2 and 4: the llama layer with Granite's multipliers, which early files leave to their readers.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  if (!reader.has("embedding_scale")) config.embedding_scale = 12.0f;
  if (!reader.has("residual_scale")) config.residual_scale = 1.4f / std::sqrt(static_cast<float>(config.n_layers));
  if (!reader.has("logit_scale")) config.logit_scale = 256.0f / static_cast<float>(config.n_embd);
}

}  // namespace

const Arch minicpm = {.name = "minicpm", .rope = ops::RopeKind::adjacent, .customize = customize};

}  // namespace halfbyte::model::archs
