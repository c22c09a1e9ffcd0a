// A sequence of its own, run in chunks between the engine's steps.
#include "engine/forward.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace halfbyte::engine {

float log_softmax_at(std::span<const float> logits, int32_t token) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  return static_cast<float>(logits[static_cast<size_t>(token)] - highest - std::log(sum));
}

std::vector<float> run_forward(model::Decoder& decoder, cache::KvStore& kv, cache::BlockPool& pool,
                               FunctionRef<void()> free_blocks, const std::vector<int32_t>& tokens,
                               ForwardOutput output, int64_t chunk, const model::AdapterSet* adapters) {
  const auto n = static_cast<int64_t>(tokens.size());
  require(n >= 1, "forward() needs at least one token.");
  const int64_t n_ctx = int64_t{pool.n_blocks()} * ops::kKvBlockTokens;
  if (n > n_ctx) {
    throw Error(ErrorKind::context_overflow,
                format_string("%lld tokens do not fit the context of %lld.", static_cast<long long>(n),
                              static_cast<long long>(n_ctx)),
                "Open the model with a larger n_ctx.");
  }
  std::vector<int32_t> blocks;
  const auto release = [&] {
    for (const int32_t block : blocks) pool.release(block);
  };
  try {
    while (static_cast<int64_t>(blocks.size()) * ops::kKvBlockTokens < n) {
      int32_t block = pool.allocate();
      if (block < 0) {
        free_blocks();
        block = pool.allocate();
      }
      if (block < 0)
        throw Error(ErrorKind::out_of_memory, "The KV cache is full of running requests.",
                    "Try again when they have ended.");
      blocks.push_back(block);
    }
    const model::Config& c = decoder.config();
    const auto width = static_cast<size_t>(output == ForwardOutput::hidden ? c.n_embd : c.n_vocab);
    std::vector<float> out;
    out.reserve(output == ForwardOutput::next_logprobs ? tokens.size() : tokens.size() * width);
    for (int64_t first = 0; first < n; first += chunk) {
      const int64_t count = std::min(chunk, n - first);
      model::Batch batch;
      for (int64_t i = 0; i < count; ++i) {
        batch.tokens.push_back(tokens[static_cast<size_t>(first + i)]);
        batch.positions.push_back(static_cast<int32_t>(first + i));
        batch.logit_rows.push_back(static_cast<int32_t>(i));
      }
      batch.sequences.push_back({0, count, first, ops::Role::prefill, blocks, adapters});
      const std::span<const float> rows =
          output == ForwardOutput::hidden ? decoder.hidden(batch, kv) : decoder.forward(batch, kv);
      if (output != ForwardOutput::next_logprobs) {
        out.insert(out.end(), rows.begin(), rows.end());
        continue;
      }
      for (int64_t i = 0; i < count && first + i + 1 < n; ++i) {
        out.push_back(log_softmax_at(rows.subspan(static_cast<size_t>(i) * width, width),
                                     tokens[static_cast<size_t>(first + i + 1)]));
      }
    }
    release();
    return out;
  } catch (...) {
    release();
    throw;
  }
}

}  // namespace halfbyte::engine
