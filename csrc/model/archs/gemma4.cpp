// Gemma 4: layers with a window and full ones differ in their heads; values are normed; the last layers read the keys
// and values of earlier ones (E2B, E4B), and all layers have rows of a second embedding there; experts stand beside a
// dense MLP (26B-A4B).
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 512, 1, kMaxContext), 6);
  const LayerConfig full = config.layers.front();
  const int key_dim = reader.count("attention.key_length_swa", full.key_dim, 1, 4096);
  const int value_dim = reader.count("attention.value_length_swa", full.value_dim, 1, 4096);
  const int rope_dim = reader.count("rope.dimension_count_swa", key_dim, 2, key_dim);
  if (key_dim != value_dim || full.key_dim != full.value_dim || rope_dim % 2 != 0) {
    throw Error(
        ErrorKind::format,
        format_string("%s: heads with keys of %d or %d dimensions and values of %d or %d, %d of them turned.",
                      reader.source().path().c_str(), key_dim, full.key_dim, value_dim, full.value_dim, rope_dim));
  }
  turn_windows_faster(reader, config);
  for (LayerConfig& layer : config.layers) {
    if (layer.window == 0) continue;
    layer.key_dim = key_dim;
    layer.value_dim = value_dim;
    layer.rope_dim = rope_dim;
    layer.uses_rope_factors = false;
  }
  config.attention_scale = 1.0f;
  config.n_embd_per_layer = reader.count("embedding_length_per_layer_input", 0, 0, 1 << 16);
  share_caches(reader, config, reader.number_or("attention.shared_kv_layers", 0, 0, config.n_layers - 1));
}

}  // namespace

const Arch gemma4 = {
    .name = "gemma4",
    .norm_places = NormPlaces::pre_and_post,
    .activation = ops::Activation::gelu_tanh,
    .scale_embedding_by_sqrt_dim = true,
    .norm_values = true,
    .experts_stand_beside = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
