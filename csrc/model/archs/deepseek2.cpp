// DeepSeek 2, 2.5, 3 and R1, Kimi K2, GLM 4.7 Flash, Mistral Large 3: latent attention, and experts of which the first
// layers have none.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

// Newer files hold the matrices of heads apart, and name the sizes of what is cached key_length and value_length; then
// those of heads have names of their own.
void read_latent(const files::TensorSource& source, Config& config) {
  const files::Metadata& meta = source.metadata();
  const auto number = [&](const std::string& key, int64_t fallback) {
    const int64_t value = meta.get_int(config.arch + ".attention." + key).value_or(fallback);
    if (value >= 1 && value <= (1 << 14)) return static_cast<int>(value);
    throw Error(ErrorKind::format,
                format_string("%s: metadata key %s.attention.%s is %lld; 1 to 16384 were expected.",
                              source.path().c_str(), config.arch.c_str(), key.c_str(), static_cast<long long>(value)));
  };
  const LayerConfig first = config.layers.front();
  config.latent = {number("kv_lora_rank", 0), number("key_length_mla", first.key_dim),
                   number("value_length_mla", first.value_dim)};
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
                      source.path().c_str(), config.latent.key_dim, first.rope_dim));
  }
}

void customize(const files::TensorSource& source, Config& config) {
  const files::Metadata& meta = source.metadata();
  read_latent(source, config);
  read_query_growth(source, config);
  if (meta.get_int(config.arch + ".expert_gating_func").value_or(0) == 0) {
    // Early files leave it out; only scores of sigmoids are corrected.
    const std::string last = "blk." + std::to_string(config.n_layers - 1) + ".exp_probs_b.bias";
    if (source.find(last) != nullptr) config.experts.gating = ops::Gating::sigmoid;
  }
  // YaRN's magnitude goes into the scores instead, all of them, with a share of its logarithm (in tenths).
  const double share = meta.get_float(config.arch + ".rope.scaling.yarn_log_multiplier").value_or(0.0) * 10.0;
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
