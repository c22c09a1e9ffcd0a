// Fills in what a caller left open, within what the model and the memory allow.
#include "engine/options.h"

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/threads.h"

namespace halfbyte::engine {

namespace {

// Bytes of memory that can still be used without swapping, or a guess of 4 GiB where the system does not say.
int64_t available_memory() {
  int64_t kilobytes = int64_t{4} << 20;
  if (std::FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      long long value = 0;
      if (std::sscanf(line, "MemAvailable: %lld kB", &value) == 1) kilobytes = value;
    }
    std::fclose(file);
  }
  return kilobytes * 1024;
}

}  // namespace

EngineOptions resolve_options(EngineOptions options, const model::Weights& weights) {
  const model::Config& c = weights.config;
  if (options.n_threads <= 0) options.n_threads = usable_cores();
  require(options.n_batch >= 1 && options.n_batch <= 65536, "n_batch is %lld; 1 to 65536 are allowed.",
          static_cast<long long>(options.n_batch));
  require(options.max_sequences >= 1 && options.max_sequences <= 4096, "max_sequences is %lld; 1 to 4096 are allowed.",
          static_cast<long long>(options.max_sequences));
  int64_t token_bytes = 0;
  for (const model::LayerConfig& layer : c.layers) {
    token_bytes +=
        ops::KvLayout{options.k_type, options.v_type, layer.n_kv_heads, c.head_dim_k, c.head_dim_v}.block_bytes();
  }
  token_bytes = std::max<int64_t>(1, token_bytes / ops::kKvBlockTokens);
  const int64_t affordable = available_memory() / 2 / token_bytes;
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
  const int64_t n_bytes = options.kv_tokens * token_bytes;
  if (options.kv_tokens > (int64_t{1} << 34) || n_bytes > available_memory()) {
    throw Error(ErrorKind::out_of_memory,
                format_string("The KV cache for %lld tokens would take %.1f MiB; %.1f MiB are available.",
                              static_cast<long long>(options.kv_tokens), static_cast<double>(n_bytes) / (1 << 20),
                              static_cast<double>(available_memory()) / (1 << 20)),
                "Choose a smaller n_ctx, or a smaller KV type (kv_type=\"q8_0\").");
  }
  return options;
}

}  // namespace halfbyte::engine
