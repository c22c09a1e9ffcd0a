// Gemma 2: norms before and after each block, soft caps, every other layer sees a window.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 4096, 0, kMaxContext), 2);
  if (!reader.has("attn_logit_softcapping")) config.attention_softcap = 50.0f;
  if (!reader.has("final_logit_softcapping")) config.final_softcap = 30.0f;
  // The 27B model (46 layers) divides by sqrt(n_embd / n_heads); the others by sqrt(head_dim).
  if (config.n_layers == 46 && config.attention_scale == 0) {
    config.attention_scale =
        1.0f / std::sqrt(static_cast<float>(config.n_embd) / static_cast<float>(config.layers[0].n_heads));
  }
}

}  // namespace

const Arch gemma2 = {
    .name = "gemma2",
    .norm_places = NormPlaces::pre_and_post,
    .activation = ops::Activation::gelu_tanh,
    .scale_embedding_by_sqrt_dim = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
