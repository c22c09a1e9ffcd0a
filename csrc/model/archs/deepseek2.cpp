// DeepSeek 2, 2.5, 3 and R1, Kimi K2, GLM 4.7 Flash, Mistral Large 3: latent attention, and experts of which the first
// layers have none.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

constexpr int kMaxLatent = 1 << 14;

// Newer files hold the matrices of heads apart, and name the sizes of what is cached key_length and value_length; then
// those of heads have names of their own.
void read_latent(const MetadataReader& reader, Config& config) {
  const LayerConfig first = config.layers.front();
  config.latent = {reader.count("attention.kv_lora_rank", 0, 1, kMaxLatent),
                   reader.count("attention.key_length_mla", first.key_dim, 1, kMaxLatent),
                   reader.count("attention.value_length_mla", first.value_dim, 1, kMaxLatent)};
  bool is_even = config.latent.key_dim > first.rope_dim;
  for (LayerConfig& layer : config.layers) {
    is_even = is_even && layer.n_heads == first.n_heads;
    layer.n_kv_heads = 1;
    layer.key_dim = layer.rope_dim + config.latent.rank;
    layer.value_dim = config.latent.rank;
  }
  if (!is_even) {
    throw Error(
        ErrorKind::format,
        format_string("%s: latent attention with keys of %d dimensions, of which %d turn, or of different heads.",
                      reader.source().path().c_str(), config.latent.key_dim, first.rope_dim));
  }
}

void customize(const MetadataReader& reader, Config& config) {
  read_latent(reader, config);
  read_query_growth(reader, config);
  if (reader.number_or("expert_gating_func", 0, 0, 3) == 0) {
    // Early files leave it out; only scores of sigmoids are corrected.
    const std::string last = "blk." + std::to_string(config.n_layers - 1) + ".exp_probs_b.bias";
    if (reader.source().find(last) != nullptr) config.experts.gating = ops::Gating::sigmoid;
  }
  // YaRN's magnitude goes into the scores instead, all of them, with a share of its logarithm (in tenths).
  const double share = reader.real_or("rope.scaling.yarn_log_multiplier", 0.0) * 10.0;
  double magnitude = yarn_magnitude(config, 1.0);
  if (share != 0) {
    config.rope_attn_factor /= magnitude;
    magnitude = yarn_magnitude(config, share);
  }
  config.attention_scale = static_cast<float>(magnitude * magnitude / std::sqrt(config.latent.key_dim));
}

}  // namespace

const Arch deepseek2 = {
    .name = "deepseek2",
    .rope = ops::RopeKind::adjacent,
    .normalize_experts = false,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
