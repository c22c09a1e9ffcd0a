// Fills in what a caller left open, within what the model and the memory allow.
#include "engine/options.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"

namespace halfbyte::engine {

namespace {

// What one memory would hold of the KV cache.
struct Share {
  const ops::Memory* memory;
  int64_t token_bytes;  // of all its layers
  int64_t available;
};

std::vector<Share> shares_of(const EngineOptions& options, const model::Weights& weights,
                             const model::KvGroups& groups) {
  const model::Config& c = weights.config;
  std::vector<Share> shares;
  for (const int32_t layer : groups.example) {
    const auto l = static_cast<size_t>(layer);
    const ops::KvLayout layout = {options.k_type, options.v_type, c.layers[l].n_kv_heads, c.head_dim_k, c.head_dim_v};
    const ops::Memory* memory = weights.layer_ops[l]->memory;
    auto share = std::find_if(shares.begin(), shares.end(), [&](const Share& s) { return s.memory == memory; });
    if (share == shares.end()) share = shares.insert(share, {memory, 0, memory->available()});
    share->token_bytes += groups.n_groups() * layout.block_bytes();
  }
  for (Share& share : shares) share.token_bytes = std::max<int64_t>(1, share.token_bytes / ops::kKvBlockTokens);
  return shares;
}

}  // namespace

int32_t n_kv_blocks(const EngineOptions& options, const model::KvGroups& groups) {
  return static_cast<int32_t>(((options.kv_tokens + ops::kKvBlockTokens - 1) / ops::kKvBlockTokens + 1) *
                              groups.n_groups());
}

EngineOptions resolve_options(EngineOptions options, const model::Weights& weights) {
  const model::Config& c = weights.config;
  if (options.n_threads <= 0) options.n_threads = usable_cores();
  require(options.n_batch >= 1 && options.n_batch <= 65536, "n_batch is %lld; 1 to 65536 are allowed.",
          static_cast<long long>(options.n_batch));
  require(options.max_sequences >= 1 && options.max_sequences <= 4096, "max_sequences is %lld; 1 to 4096 are allowed.",
          static_cast<long long>(options.max_sequences));
  require(options.max_drafts >= 0 && options.max_drafts <= 64, "max_drafts is %lld; 0 to 64 are allowed.",
          static_cast<long long>(options.max_drafts));
  require(options.max_waiting >= 0, "max_waiting is %lld; a count or 0 (no limit) was expected.",
          static_cast<long long>(options.max_waiting));
  const model::KvGroups groups = model::kv_groups(weights);
  const std::vector<Share> shares = shares_of(options, weights, groups);
  int64_t affordable = INT64_MAX;
  for (const Share& share : shares) affordable = std::min(affordable, share.available / 2 / share.token_bytes);
  require(options.n_ctx >= 0, "n_ctx is %lld; a positive number or 0 (the model's) was expected.",
          static_cast<long long>(options.n_ctx));
  if (options.n_ctx == 0) options.n_ctx = std::min(c.n_ctx_train, std::max<int64_t>(512, affordable));
  if (c.positions == model::PositionKind::learned && options.n_ctx > c.n_ctx_train) {
    throw Error(ErrorKind::invalid_argument,
                format_string("n_ctx is %lld; this model has %lld learned positions and cannot go further.",
                              static_cast<long long>(options.n_ctx), static_cast<long long>(c.n_ctx_train)));
  }
  if (options.kv_tokens == 0) options.kv_tokens = std::max(options.n_ctx, std::min(4 * options.n_ctx, affordable));
  require(options.kv_tokens >= options.n_ctx, "kv_tokens is %lld, below n_ctx %lld.",
          static_cast<long long>(options.kv_tokens), static_cast<long long>(options.n_ctx));
  for (const Share& share : shares) {
    const int64_t n_bytes = options.kv_tokens * share.token_bytes;
    if (options.kv_tokens <= (int64_t{1} << 34) / groups.n_groups() && n_bytes <= share.available) continue;
    throw Error(ErrorKind::out_of_memory,
                format_string("The KV cache for %lld tokens would take %.1f MiB of %s memory; %.1f MiB are available.",
                              static_cast<long long>(options.kv_tokens), static_cast<double>(n_bytes) / (1 << 20),
                              share.memory->name, static_cast<double>(share.available) / (1 << 20)),
                "Choose a smaller n_ctx, or a smaller KV type (kv_type=\"q8_0\").");
  }
  return options;
}

}  // namespace halfbyte::engine
