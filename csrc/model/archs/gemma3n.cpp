// Gemma 3n: several streams of which one passes through each layer, a second way past attention, sparse gates in the
// first layers; a second embedding and shared caches as in Gemma 4; four window layers to one full one.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

// Gates that count, in deviations above the mean: one number for each layer.
void read_gate_cuts(const MetadataReader& reader, Config& config) {
  const files::TensorSource& source = reader.source();
  const auto cuts = source.metadata().get_floats("gemma3n.activation_sparsity_scale");
  if (!cuts) return;
  if (static_cast<int64_t>(cuts->size()) != config.n_layers) {
    throw Error(ErrorKind::format,
                format_string("%s: gemma3n.activation_sparsity_scale tells of %zu layers of %lld.",
                              source.path().c_str(), cuts->size(), static_cast<long long>(config.n_layers)));
  }
  for (size_t i = 0; i < cuts->size(); ++i) {
    const double cut = (*cuts)[i];
    if (std::isnan(cut) || cut > 100.0) {
      throw Error(ErrorKind::format, format_string("%s: gemma3n.activation_sparsity_scale holds %g; a number of "
                                                   "deviations was expected.",
                                                   source.path().c_str(), cut));
    }
    config.layers[i].gate_cut = static_cast<float>(cut);
  }
}

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 512, 1, kMaxContext), 5);
  turn_windows_faster(reader, config);
  config.attention_scale = 1.0f;
  config.n_embd_per_layer = reader.count("embedding_length_per_layer_input", 256, 1, 1 << 16);
  config.streams.n = reader.count("altup.num_inputs", 4, 2, ops::kMostStreams);
  config.streams.active = reader.count("altup.active_idx", 0, 0, config.streams.n - 1);
  const files::TensorView* down = reader.source().find("blk.0.laurel_l.weight");
  if (down == nullptr || down->n_rows() > config.n_embd) {
    throw Error(ErrorKind::format,
                reader.source().path() + ": tensor blk.0.laurel_l.weight is missing, or larger than it can be.");
  }
  config.residual_rank = down->n_rows();
  share_caches(reader, config, reader.number_or("attention.shared_kv_layers", 0, 0, config.n_layers - 1));
  read_gate_cuts(reader, config);
}

}  // namespace

const Arch gemma3n = {
    .name = "gemma3n",
    .norm_places = NormPlaces::pre_and_post,
    .activation = ops::Activation::gelu_tanh,
    .scale_embedding_by_sqrt_dim = true,
    .norm_values = true,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
