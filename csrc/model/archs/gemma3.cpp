// Gemma 3: Gemma 2 without soft caps, with q and k norms; five window layers to one full one, each kind with its own
// rope.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 1024, 0, kMaxContext), 6);
  turn_windows_faster(reader, config);
  // The 27B model (62 layers) divides by sqrt(n_embd / n_heads); the others by sqrt(head_dim).
  if (config.n_layers == 62 && config.attention_scale == 0) {
    config.attention_scale =
        1.0f / std::sqrt(static_cast<float>(config.n_embd) / static_cast<float>(config.layers[0].n_heads));
  }
}

}  // namespace

const Arch gemma3 = {
    .name = "gemma3",
    .norm_places = NormPlaces::pre_and_post,
    .activation = ops::Activation::gelu_tanh,
    .scale_embedding_by_sqrt_dim = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
