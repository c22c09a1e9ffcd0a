// What an architecture is, as data. The decoder reads these fields and never a family's name.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "files/tensor_source.h"
#include "ops/ops.h"

namespace halfbyte::model {

class MetadataReader;

// Where norms stand in a layer.
enum class NormPlaces : uint8_t {
  pre,           // x += attn(norm(x)); x += mlp(norm(x))
  pre_and_post,  // x += norm(attn(norm(x))); same for the mlp (Gemma 2 and 3)
  post,          // x += norm(attn(x)); same for the mlp (OLMo 2)
  parallel,      // x += attn(norm(x)) + mlp(norm'(x)); norm' is the same norm where the file has no second one
};

enum class PositionKind : uint8_t { rope, learned, none };

// Rope frequency scaling by parameters; factors per frequency arrive as tensors in the file (rope_freqs,
// rope_factors_*).
enum class RopeScaling : uint8_t { none, linear, yarn, longrope };

// One layer's shape; families with alternating layers fill them differently.
struct LayerConfig {
  int64_t window = 0;             // 0: full attention
  bool uses_rope = true;          // false: NoPE layer (SmolLM3)
  bool uses_rope_factors = true;  // rope_freqs, where the file has them
  double rope_theta = 10000.0;
  double rope_freq_scale = 1.0;
  int64_t n_ff = 0;  // of the dense MLP, or of the shared expert (0: there is none)
  int n_heads = 0;
  int n_kv_heads = 0;
  int key_dim = 0, value_dim = 0, rope_dim = 0;  // of a head
  int64_t kv_layer = -1;                         // an earlier layer whose keys and values it reads; -1: its own
  int n_experts = 0;                             // 0: a dense MLP
  int64_t n_ff_expert = 0;
  // Of a row of gates those count that are this many deviations above their mean, by what they are more; minus
  // infinity: all of them, as they are.
  float gate_cut = -std::numeric_limits<float>::infinity();
  bool cuts_gates() const { return gate_cut > -std::numeric_limits<float>::infinity(); }
};

// Several streams beside one another (AltUp). Only one passes through each layer: before it, all are mixed anew; behind
// it, all take their share of what it has changed.
struct StreamsConfig {
  int n = 0;       // 0: the residual stream alone
  int active = 0;  // the one that passes through the layers
};

// What all layers with experts share.
struct ExpertsConfig {
  ops::Gating gating = ops::Gating::softmax;
  int n_used = 0;
  int n_groups = 1, n_groups_used = 1;
  bool normalize = true;
  float scale = 1.0f;
  float limit = 0.0f, shift = 0.0f;  // of the gated unit (ops::ExpertUnit)
  bool stand_beside = false;         // a dense MLP, and each of the two, their sum and the router have norms
};

// Latent attention (DeepSeek 2): a position has one latent row, of which all heads make their keys and values, and one
// part of a key that turns, which all heads share. The cache holds these two: a head of rope_dim + rank numbers, whose
// last `rank` are its value.
struct LatentConfig {
  int rank = 0;       // of the latent row; 0: heads have keys and values of their own
  int key_dim = 0;    // of each head: what is made of the latent row, then rope_dim that turn
  int value_dim = 0;  // of each head
};

// A model's numbers, read from metadata through the family's table.
struct Config {
  std::string arch;  // for show and messages only
  std::string name;
  int64_t n_layers = 0, n_embd = 0, n_vocab = 0, n_ctx_train = 0;
  std::vector<LayerConfig> layers;

  ops::NormKind norm = ops::NormKind::rms;
  NormPlaces norm_places = NormPlaces::pre;
  float norm_eps = 1e-5f;
  ops::Activation activation = ops::Activation::silu;
  bool gated_mlp = true;
  PositionKind positions = PositionKind::rope;
  ops::RopeKind rope = ops::RopeKind::adjacent;
  RopeScaling rope_scaling = RopeScaling::none;
  double rope_factor = 1.0;  // scaling factor of linear and yarn
  int64_t rope_original_ctx = 0;
  bool yarn_truncate = true;  // the ramp begins and ends at whole pairs
  double yarn_beta_fast = 32.0, yarn_beta_slow = 1.0, yarn_ext_factor = 1.0;
  double rope_attn_factor = 1.0;                                                          // magnitude multiplier
  bool norm_heads_after_rope = false, heads_have_own_norms = false, norm_values = false;  // as in Arch
  float attention_scale = 0.0f;                                                           // 0: 1/sqrt(key_dim)
  // Queries at position p are multiplied by 1 + temperature_scale * log(1 + p / temperature_length) (whole division).
  float temperature_scale = 0.0f;  // 0: by nothing
  int64_t temperature_length = 1;
  float attention_softcap = 0.0f, final_softcap = 0.0f;
  float embedding_scale = 1.0f, residual_scale = 1.0f, logit_scale = 1.0f;
  int64_t n_embd_per_layer = 0;  // of the second embedding, which has a row for each layer; 0: there is none
  int64_t residual_rank = 0;     // of a second way past attention (LAuReL), in few dimensions; 0: there is none
  StreamsConfig streams;
  LatentConfig latent;
  ExpertsConfig experts;

  bool cuts_gates() const;  // in some layer
};

// A family: which metadata it reads and how it differs from the plain llama layer. One file each in archs/.
struct Arch {
  std::string_view name;  // general.architecture
  ops::NormKind norm = ops::NormKind::rms;
  NormPlaces norm_places = NormPlaces::pre;
  ops::Activation activation = ops::Activation::silu;
  bool gated_mlp = true;
  PositionKind positions = PositionKind::rope;
  ops::RopeKind rope = ops::RopeKind::halves;
  bool scale_embedding_by_sqrt_dim = false;
  bool norm_heads_after_rope = false;  // norms of q and k follow rope
  bool heads_have_own_norms = false;   // norms of q and k hold weights for each head, which is normed alone
  bool norm_values = false;            // each head's values, without weights
  bool normalize_experts = true;       // chosen experts' weights sum to 1, unless the file says otherwise
  bool experts_stand_beside = false;   // as in ExpertsConfig
  // For what no field above says: fills layer-dependent numbers from metadata. nullptr: nothing special.
  void (*customize)(const MetadataReader& reader, Config& config) = nullptr;
};

// nullptr when unknown.
const Arch* find_arch(std::string_view general_architecture);
std::span<const Arch* const> all_archs();

// Reads and checks everything the decoder needs. Throws unsupported (architecture) or format (missing, absurd numbers).
Config read_config(const files::TensorSource& source);

}  // namespace halfbyte::model
