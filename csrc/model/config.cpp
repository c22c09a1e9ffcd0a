// A model's numbers from its file; what no model has is refused.
#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "model/arch.h"
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model {

namespace {

void read_rope(const MetadataReader& reader, Config& config) {
  const files::TensorSource& source = reader.source();
  const int key_dim = config.layers.front().key_dim;
  const int rope_dim = static_cast<int>(reader.number_or("rope.dimension_count", key_dim, 2, key_dim));
  if (rope_dim % 2 != 0)
    throw Error(ErrorKind::format,
                format_string("%s: rope.dimension_count %d is odd.", source.path().c_str(), rope_dim));
  const double theta = reader.positive_or("rope.freq_base", 10000.0);
  // Common converters write the factors of LongRoPE and leave its name out.
  const char* implied = source.find("rope_factors_long.weight") != nullptr ? "longrope" : "none";
  const std::string scaling = reader.text_or("rope.scaling.type", implied);
  config.rope_factor = reader.positive_or("rope.scaling.factor", reader.positive_or("rope.scale_linear", 1.0));
  config.rope_original_ctx =
      reader.number_or("rope.scaling.original_context_length", config.n_ctx_train, 1, kMaxContext);
  config.rope_attn_factor = reader.positive_or("rope.scaling.attn_factor", 1.0);
  config.yarn_beta_fast = reader.positive_or("rope.scaling.yarn_beta_fast", 32.0);
  config.yarn_beta_slow = reader.positive_or("rope.scaling.yarn_beta_slow", 1.0);
  config.yarn_ext_factor = reader.real_or("rope.scaling.yarn_ext_factor", 1.0);
  double freq_scale = 1.0;
  if (scaling == "linear" || (scaling == "none" && !reader.has("rope.scaling.type") && config.rope_factor != 1.0)) {
    config.rope_scaling = RopeScaling::linear;
    freq_scale = 1.0 / config.rope_factor;
  } else if (scaling == "yarn") {
    config.rope_scaling = RopeScaling::yarn;
    freq_scale = 1.0 / config.rope_factor;
  } else if (scaling == "longrope") {
    config.rope_scaling = RopeScaling::longrope;
  } else if (scaling != "none") {
    throw Error(ErrorKind::unsupported, source.path() + ": rope scaling \"" + scaling + "\".",
                "Known are none, linear, yarn and longrope.");
  }
  for (LayerConfig& layer : config.layers) {
    layer.rope_dim = rope_dim;
    layer.rope_theta = theta;
    layer.rope_freq_scale = freq_scale;
  }
}

// Which layers have experts is told by their routers' tensors, widths by the matrices'.
void read_experts(const MetadataReader& reader, const Arch& arch, Config& config) {
  const int n_experts = static_cast<int>(reader.number_or("expert_count", 0, 0, kMaxExperts));
  if (n_experts == 0) return;
  const files::TensorSource& source = reader.source();
  ExpertsConfig& e = config.experts;
  e.n_used = static_cast<int>(reader.number("expert_used_count", 1, n_experts));
  e.scale = static_cast<float>(reader.real_or("expert_weights_scale", 1.0));
  if (e.scale == 0) e.scale = 1.0f;  // as some converters say that there is none
  e.normalize = reader.flag_or("expert_weights_norm", arch.normalize_experts);
  e.stand_beside = arch.experts_stand_beside;
  const int64_t gating = reader.number_or("expert_gating_func", 0, 0, 16);
  if (gating > 3) {
    throw Error(ErrorKind::unsupported,
                format_string("%s: experts are chosen by function %lld.", source.path().c_str(),
                              static_cast<long long>(gating)),
                "Known are 1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen).");
  }
  e.gating = gating == 2 ? ops::Gating::sigmoid : ops::Gating::softmax;
  if (gating == 3) e.normalize = true;  // the softmax of the chosen is that of all, normalized
  e.n_groups = static_cast<int>(std::max<int64_t>(1, reader.number_or("expert_group_count", 1, 0, kMaxExperts)));
  if (e.n_groups > 1) {
    e.n_groups_used = static_cast<int>(reader.number("expert_group_used_count", 1, e.n_groups));
    if (e.n_groups > ops::kMostExpertGroups || n_experts % e.n_groups != 0 || n_experts / e.n_groups < 2 ||
        n_experts / e.n_groups * e.n_groups_used < e.n_used) {
      throw Error(ErrorKind::format,
                  format_string("%s: %d of %d experts cannot be chosen from %d of %d groups.", source.path().c_str(),
                                e.n_used, n_experts, e.n_groups_used, e.n_groups));
    }
  }
  std::map<std::string, int64_t> rows;  // of expert tensors
  for (const files::TensorView& tensor : source.tensors()) {
    if (tensor.name.find("ffn_") != std::string::npos && tensor.shape.size() > 1)
      rows.emplace(tensor.name, tensor.shape[1]);
  }
  for (size_t i = 0; i < config.layers.size(); ++i) {
    LayerConfig& layer = config.layers[i];
    const std::string prefix = "blk." + std::to_string(i) + ".ffn_";
    if (!rows.contains(prefix + "gate_inp.weight")) continue;
    if (rows.contains(prefix + "up.0.weight")) {
      throw Error(ErrorKind::unsupported, source.path() + ": each expert is a tensor of its own.",
                  "An old converter wrote it; convert the model again.");
    }
    const auto both = rows.find(prefix + "gate_up_exps.weight");
    if (both != rows.end()) rows[prefix + "up_exps.weight"] = both->second / 2;
    if (!rows.contains(prefix + "up_exps.weight"))
      throw Error(ErrorKind::format, source.path() + ": tensor " + prefix + "up_exps.weight is missing.",
                  "The file is no complete model; convert or fetch it again.");
    layer.n_experts = n_experts;
    layer.n_ff_expert = rows[prefix + "up_exps.weight"];
    if (!e.stand_beside) layer.n_ff = rows.contains(prefix + "up_shexp.weight") ? rows[prefix + "up_shexp.weight"] : 0;
    if (layer.n_ff_expert > kMaxWidth || layer.n_ff > kMaxWidth)
      throw Error(ErrorKind::format, source.path() + ": an expert is absurdly wide.");
  }
}

}  // namespace

bool Config::cuts_gates() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerConfig& layer) { return layer.cuts_gates(); });
}

std::span<const Arch* const> all_archs() {
  return archs::kAll;
}

const Arch* find_arch(std::string_view general_architecture) {
  for (const Arch* arch : archs::kAll) {
    if (arch->name == general_architecture) return arch;
  }
  return nullptr;
}

Config read_config(const files::TensorSource& source) {
  const files::Metadata& meta = source.metadata();
  const auto name = meta.get_string("general.architecture");
  if (!name) {
    throw Error(ErrorKind::format, source.path() + ": metadata key general.architecture is missing.",
                "The file is no model.");
  }
  const Arch* arch = find_arch(*name);
  if (arch == nullptr) {
    std::string known;
    for (const Arch* each : archs::kAll) known += (known.empty() ? "" : ", ") + std::string(each->name);
    throw Error(ErrorKind::unsupported, source.path() + ": architecture \"" + *name + "\" is not supported.",
                "Supported are " + known + ".");
  }

  const MetadataReader reader(source, *name);
  Config config;
  config.arch = *name;
  config.name = meta.get_string("general.name").value_or("");
  config.n_layers = reader.number("block_count", 1, kMaxLayers);
  config.n_embd = reader.number("embedding_length", 1, kMaxWidth);
  config.n_ctx_train = reader.number("context_length", 1, kMaxContext);
  const files::TensorView* embedding = source.find("token_embd.weight");
  if (embedding == nullptr)
    throw Error(ErrorKind::format, source.path() + ": tensor token_embd.weight is missing.",
                "The file holds no weights (a vocabulary only?).");
  config.n_vocab = embedding->n_rows();
  if (config.n_vocab > INT32_MAX) throw Error(ErrorKind::format, source.path() + ": the vocabulary is absurdly large.");

  const std::vector<int64_t> heads = reader.per_layer("attention.head_count", {}, config.n_layers, 1, kMaxHeads);
  const std::vector<int64_t> kv_heads =
      reader.per_layer("attention.head_count_kv", heads, config.n_layers, 1, kMaxHeads);
  const std::vector<int64_t> widths = reader.per_layer("feed_forward_length", {}, config.n_layers, 1, kMaxWidth * 8);
  const int64_t head_dim = config.n_embd / heads[0];
  const auto key_dim = static_cast<int>(reader.number_or("attention.key_length", head_dim, 1, kMaxHeadDim));
  const auto value_dim = static_cast<int>(reader.number_or("attention.value_length", head_dim, 1, kMaxHeadDim));
  if (key_dim < 1 || value_dim < 1) {
    throw Error(ErrorKind::format,
                format_string("%s: %lld heads are too many for a width of %lld.", source.path().c_str(),
                              static_cast<long long>(heads[0]), static_cast<long long>(config.n_embd)));
  }
  config.layers.resize(static_cast<size_t>(config.n_layers));
  const int64_t window = reader.number_or("attention.sliding_window", 0, 0, kMaxContext);
  for (size_t i = 0; i < config.layers.size(); ++i) {
    LayerConfig& layer = config.layers[i];
    layer.n_heads = static_cast<int>(heads[i]);
    layer.n_kv_heads = static_cast<int>(kv_heads[i]);
    layer.key_dim = key_dim;
    layer.value_dim = value_dim;
    layer.n_ff = widths[i];
    layer.window = window;
    if (heads[i] % kv_heads[i] != 0) {
      throw Error(ErrorKind::format, format_string("%s: layer %zu has %lld heads, no multiple of its %lld kv heads.",
                                                   source.path().c_str(), i, static_cast<long long>(heads[i]),
                                                   static_cast<long long>(kv_heads[i])));
    }
  }

  config.norm = arch->norm;
  config.norm_places = arch->norm_places;
  config.activation = arch->activation;
  config.gated_mlp = arch->gated_mlp;
  config.positions = arch->positions;
  config.rope = arch->rope;
  config.norm_heads_after_rope = arch->norm_heads_after_rope;
  config.heads_have_own_norms = arch->heads_have_own_norms;
  config.norm_values = arch->norm_values;
  config.norm_eps = static_cast<float>(reader.positive_or(
      arch->norm == ops::NormKind::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", 1e-5));
  config.attention_scale = static_cast<float>(reader.real_or("attention.scale", 0.0));
  config.attention_softcap = static_cast<float>(reader.real_or("attn_logit_softcapping", 0.0));
  config.final_softcap = static_cast<float>(reader.real_or("final_logit_softcapping", 0.0));
  config.embedding_scale = static_cast<float>(reader.positive_or(
      "embedding_scale", arch->scale_embedding_by_sqrt_dim ? std::sqrt(static_cast<float>(config.n_embd)) : 1.0));
  config.residual_scale = static_cast<float>(reader.positive_or("residual_scale", 1.0));
  config.logit_scale = static_cast<float>(1.0 / reader.positive_or("logit_scale", 1.0));
  if (config.positions == PositionKind::rope)
    read_rope(reader, config);
  else
    config.rope = ops::RopeKind::none;
  read_experts(reader, *arch, config);
  if (arch->customize != nullptr) arch->customize(reader, config);
  return config;
}

}  // namespace halfbyte::model
