// Adds up what stages take.
#include "model/room.h"

#include <algorithm>

namespace halfbyte::model {

namespace {

// Of free memory: a device's runtime takes some for itself as kernels come into use, and rounds what it gives.
constexpr double kFreeShare = 0.95;

// The widest row that any layer needs of each kind.
struct Widths {
  int64_t q = 0, k = 0, v = 0, attention = 0, mlp = 0, n_experts = 0, expert = 0;
  int n_heads = 0, value_dim = 0;
};

Widths widths_of(const Config& c) {
  Widths out;
  for (const LayerConfig& layer : c.layers) {
    out.q = std::max<int64_t>(out.q, int64_t{layer.n_heads} * layer.key_dim);
    out.k = std::max<int64_t>(out.k, int64_t{layer.n_kv_heads} * layer.key_dim);
    out.v = std::max<int64_t>(out.v, int64_t{layer.n_kv_heads} * layer.value_dim);
    out.attention = std::max<int64_t>(out.attention, int64_t{layer.n_heads} * layer.value_dim);
    out.mlp = std::max(out.mlp, layer.n_ff);
    out.n_experts = std::max<int64_t>(out.n_experts, layer.n_experts);
    out.expert = std::max(out.expert, layer.n_ff_expert);
    out.n_heads = std::max(out.n_heads, layer.n_heads);
    out.value_dim = std::max(out.value_dim, layer.value_dim);
  }
  return out;
}

}  // namespace

int64_t DeviceBudget::taken_beside(const ops::Memory& device) const {
  int64_t n_bytes = 0;
  for (const DeviceRoom& room : beside) n_bytes += room.memory == &device ? room.weight_bytes : 0;
  return n_bytes;
}

int64_t DeviceBudget::later_beside(const ops::Memory& device) const {
  int64_t n_bytes = 0;
  for (const DeviceRoom& room : beside) n_bytes += room.memory == &device ? room.later_bytes : 0;
  return n_bytes;
}

int64_t allowed_bytes(const ops::Memory& device, const DeviceBudget& budget) {
  const double most = budget.share * static_cast<double>(device.total());
  const double left = kFreeShare * static_cast<double>(device.available());
  return static_cast<int64_t>(std::min(most, left + static_cast<double>(budget.taken_beside(device))));
}

StageSizes stage_sizes(const Config& c, const StepLimits& limits, const StageKind& kind) {
  const Widths widths = widths_of(c);
  const int64_t n = limits.n_rows, n_used = c.experts.n_used;
  StageSizes sizes;
  sizes.row = n * c.n_embd;
  sizes.layer_rows = n * c.n_layers * c.n_embd_per_layer;
  sizes.expert_branch = c.experts.stand_beside ? n * c.n_embd : 0;
  sizes.qkv = n * (widths.q + widths.k + widths.v);
  sizes.attended = n * widths.attention;
  sizes.mlp = n * widths.mlp;
  sizes.streams = n * c.streams.n * c.n_embd;
  sizes.stream_shares = n * c.streams.n * (c.streams.n + 1);
  sizes.residual = n * c.residual_rank;
  if (c.streams.n > 0) sizes.ones = c.n_embd;
  sizes.gate_up = kind.fuses_gate || c.cuts_gates() ? 2 * n * widths.mlp : 0;
  sizes.router_logits = n * widths.n_experts;
  sizes.choices = n * n_used;
  sizes.shared = n_used > 0 ? 2 * n : 0;
  sizes.expert_hidden = kind.has_experts ? n * n_used * widths.expert : 0;
  sizes.expert_sums = kind.has_experts_on_host ? n * c.n_embd : 0;
  if (c.latent.rank > 0) {  // (see layers/latent.cpp)
    const LayerConfig& layer = c.layers.front();
    const int64_t each = 2 * int64_t{c.latent.key_dim} - layer.rope_dim + c.latent.value_dim;
    sizes.latent = n * (kind.q_rank + layer.key_dim + widths.n_heads * each);
    sizes.own_heads = n * widths.n_heads;
    sizes.ones = std::max<int64_t>(sizes.own_heads, c.latent.key_dim);
  }
  if (kind.is_on_device && kind.gives_output) {
    const int64_t n_logits = std::min(n, limits.n_logit_rows);
    sizes.logits = n_logits * c.n_vocab;
    sizes.likely = n_logits * ops::kMostLikely * static_cast<int64_t>(sizeof(ops::Likely) / sizeof(float));
  }
  return sizes;
}

int most_heads(const Config& config) {
  return widths_of(config).n_heads;
}

ops::StepShape step_shape(const Config& c, const StepLimits& limits, int64_t q_rank, int64_t n_kv_groups) {
  const Widths widths = widths_of(c);
  const bool is_latent = c.latent.rank > 0;  // heads are experts of their own rows
  const int64_t head = std::max(c.latent.key_dim, c.latent.value_dim), heads = is_latent ? widths.n_heads : 0;
  const int64_t n_logits = std::min(limits.n_rows, limits.n_logit_rows);
  return {.n_rows = limits.n_rows,
          .n_logit_rows = n_logits,
          .n_sequences = n_logits,  // each that generates has one
          .n_positions = limits.n_ctx,
          .n_kv_groups = n_kv_groups,
          .n_inputs = std::max({c.n_embd, widths.attention, widths.mlp, q_rank, heads * c.latent.value_dim}),
          .n_gated = widths.mlp,
          .n_vocab = c.n_vocab,
          .n_heads = widths.n_heads,
          .value_dim = widths.value_dim,
          .n_experts = static_cast<int>(std::max(widths.n_experts, heads)),
          .n_used = static_cast<int>(std::max<int64_t>(c.experts.n_used, heads)),
          .n_expert_values = std::max(widths.n_experts > 0 ? std::max(c.n_embd, widths.expert) : 0,
                                      is_latent ? std::max<int64_t>(head, c.latent.rank) : 0)};
}

int64_t work_bytes(const Config& config, const StepLimits& limits, const StageKind& kind, const ops::Ops& device,
                   int64_t n_kv_groups) {
  return stage_sizes(config, limits, kind).n_floats() * static_cast<int64_t>(sizeof(float)) +
         device.scratch_bytes(step_shape(config, limits, kind.q_rank, n_kv_groups));
}

}  // namespace halfbyte::model
