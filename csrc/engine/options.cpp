// Fills in what a caller left open, within what the model and the memory allow.
#include "engine/options.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "engine/forward.h"

namespace halfbyte::engine {

namespace {

// What one memory would hold of the KV cache.
struct Share {
  const ops::Memory* memory;
  int64_t row_bytes;  // one block of each group of layers, in all slots: 16 tokens
  int64_t available;  // for the cache

  int64_t tokens() const { return std::max<int64_t>(0, available / row_bytes - 1) * ops::kKvBlockTokens; }
  int64_t bytes_of(int64_t n_tokens) const { return (divide_up(n_tokens) + 1) * row_bytes; }
  static int64_t divide_up(int64_t n_tokens) { return (n_tokens + ops::kKvBlockTokens - 1) / ops::kKvBlockTokens; }
};

// Bytes that the model's work buffers take of a device.
int64_t work_on(const EngineOptions& options, const model::Weights& weights, const ops::Memory& device,
                int64_t n_groups) {
  const model::StepLimits limits = {options.n_batch, options.max_sequences + kForwardChunk,
                                    options.n_ctx > 0 ? options.n_ctx : weights.config.n_ctx_train};
  int64_t n_bytes = 0;
  const std::vector<const ops::Ops*>& owners = weights.layer_ops;
  for (size_t begin = 0, end = 0; begin < owners.size(); begin = end) {
    bool has_experts = false, has_experts_on_host = false;
    for (; end < owners.size() && owners[end] == owners[begin]; ++end)
      (weights.expert_ops[end] == owners[end] ? has_experts : has_experts_on_host) = true;
    if (owners[begin]->memory != &device) continue;
    n_bytes += model::work_bytes(weights.config, limits,
                                 {.is_on_device = true,
                                  .gives_output = end == owners.size(),
                                  .fuses_gate = weights.fuses_gate(),
                                  .q_rank = weights.q_rank(),
                                  .has_experts = has_experts,
                                  .has_experts_on_host = has_experts_on_host},
                                 *owners[begin], n_groups);
  }
  return n_bytes;
}

int64_t weights_on(const model::Weights& weights, const ops::Memory& device) {
  int64_t n_bytes = 0;
  for (const model::DeviceRoom& room : weights.rooms) n_bytes += room.memory == &device ? room.weight_bytes : 0;
  return n_bytes;
}

// What the models leave of a memory for their caches.
int64_t left_of(const ops::Memory& memory, const EngineOptions& options,
                const std::vector<const model::Weights*>& models) {
  if (memory.is_host) return memory.available();
  int64_t allowed = INT64_MAX;
  for (const model::DeviceRoom& room : models.front()->rooms) {
    if (room.memory == &memory) allowed = room.allowed_bytes;
  }
  for (const model::Weights* m : models) allowed -= weights_on(*m, memory);
  int64_t left = std::min(allowed, memory.available());
  for (const model::Weights* m : models) left -= work_on(options, *m, memory, model::kv_groups(*m).n_groups());
  return left;
}

std::vector<Share> shares_of(const EngineOptions& options, const std::vector<const model::Weights*>& models) {
  std::vector<Share> shares;
  for (const model::Weights* m : models) {
    const model::KvGroups groups = model::kv_groups(*m);
    const cache::KvPlaces places = kv_places(kv_layers(*m, groups, options.k_type, options.v_type));
    for (const cache::KvPlaces::Slot& slot : places.slots) {
      const ops::Memory* memory = slot.memory;
      auto share = std::find_if(shares.begin(), shares.end(), [&](const Share& s) { return s.memory == memory; });
      if (share == shares.end()) share = shares.insert(share, {memory, 0, left_of(*memory, options, models)});
      share->row_bytes += groups.n_groups() * slot.n_bytes;
    }
  }
  return shares;
}

double mebibytes(int64_t n_bytes) {
  return static_cast<double>(n_bytes) / (1 << 20);
}

[[noreturn]] void refuse(const EngineOptions& options, const Share& share, const model::Weights& weights) {
  const ops::Memory& memory = *share.memory;
  std::string why = format_string("%.1f MiB are available", mebibytes(std::max<int64_t>(0, share.available)));
  if (!memory.is_host) {
    why += format_string(" for it: the weights take %.1f MiB of %.1f MiB, gpu_memory_utilization is %.2f",
                         mebibytes(weights_on(weights, memory)), mebibytes(memory.total()), weights.device_share);
  }
  throw Error(ErrorKind::out_of_memory,
              format_string("The KV cache for %lld tokens would take %.1f MiB of %s memory; %s.",
                            static_cast<long long>(options.kv_tokens), mebibytes(share.bytes_of(options.kv_tokens)),
                            memory.name, why.c_str()),
              std::string("Choose a smaller n_ctx (-c), or a smaller KV type (kv_type=\"q8_0\", --kv-type q8_0)") +
                  (memory.is_host ? "."
                                  : ", put fewer layers on the GPU (-ngl N, n_gpu_layers), or allow more of it "
                                    "(--gpu-memory-utilization)."));
}

}  // namespace

int32_t n_kv_blocks(const EngineOptions& options, const model::KvGroups& groups) {
  return static_cast<int32_t>(((options.kv_tokens + ops::kKvBlockTokens - 1) / ops::kKvBlockTokens + 1) *
                              groups.n_groups());
}

EngineOptions resolve_options(EngineOptions options, const model::Weights& weights, const model::Weights* draft) {
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
  require(options.n_ctx >= 0 && options.n_ctx <= int64_t{1} << 40,
          "n_ctx is %lld; a positive number or 0 (the model's) was expected.", static_cast<long long>(options.n_ctx));
  std::vector<const model::Weights*> models = {&weights};
  if (draft != nullptr) models.push_back(draft);
  const std::vector<Share> shares = shares_of(options, models);
  // Of the host's memory half, for other programs and for the file's pages; of a device's all that is left.
  int64_t affordable = INT64_MAX;
  bool is_on_host = false;
  for (const Share& share : shares) {
    is_on_host |= share.memory->is_host;
    affordable = std::min(affordable, share.memory->is_host ? share.tokens() / 2 : share.tokens());
  }
  if (options.n_ctx == 0) options.n_ctx = std::min(c.n_ctx_train, std::max<int64_t>(512, affordable));
  if (c.positions == model::PositionKind::learned && options.n_ctx > c.n_ctx_train) {
    throw Error(ErrorKind::invalid_argument,
                format_string("n_ctx is %lld; this model has %lld learned positions and cannot go further.",
                              static_cast<long long>(options.n_ctx), static_cast<long long>(c.n_ctx_train)));
  }
  if (options.kv_tokens == 0) {
    const int64_t useful = (is_on_host ? 4 : options.max_sequences) * options.n_ctx;
    options.kv_tokens = std::max(options.n_ctx, std::min(useful, affordable));
  }
  require(options.kv_tokens >= options.n_ctx, "kv_tokens is %lld, below n_ctx %lld.",
          static_cast<long long>(options.kv_tokens), static_cast<long long>(options.n_ctx));
  for (const Share& share : shares) {
    const bool is_countable = options.kv_tokens <= (int64_t{1} << 34) / model::kv_groups(weights).n_groups();
    if (!is_countable || share.bytes_of(options.kv_tokens) > share.available) refuse(options, share, weights);
  }
  return options;
}

}  // namespace halfbyte::engine
