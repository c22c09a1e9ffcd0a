// Attention through block tables, one query head at a time, softmax in double; and the KV writes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/kv_element.h"
#include "ops/reference/reference.h"

namespace halfbyte::ops::reference {

void store_kv(const Context&, const KvLayout& layout, std::byte* kv, const float* k, int64_t k_stride, const float* v,
              int64_t v_stride, int64_t n_tokens, const int64_t* slots) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    if (slots[t] < 0) continue;
    std::byte* block = kv + slots[t] / kKvBlockTokens * layout.stride();
    const int position = static_cast<int>(slots[t] % kKvBlockTokens);
    for (int h = 0; h < layout.n_kv_heads; ++h) {
      std::byte* head = block + h * layout.head_bytes();
      store_key(layout, head, position, k + t * k_stride + static_cast<int64_t>(h) * layout.key_dim);
      store_value(layout, head + layout.key_tile_bytes(), position,
                  v + t * v_stride + static_cast<int64_t>(h) * layout.value_dim);
    }
  }
}

void attention(const Context& context, const AttentionArgs& args) {
  const KvLayout& layout = args.layout;
  const int group = args.n_heads / layout.n_kv_heads;
  for (const AttentionSpan& span : args.spans) {
    context.pool->parallel_for(span.n_rows * args.n_heads, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> key(static_cast<size_t>(layout.key_dim)), value(static_cast<size_t>(layout.value_dim));
      std::vector<double> scores, sum(static_cast<size_t>(layout.value_dim));
      for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / args.n_heads, position = span.first_position + row;
        const int head = static_cast<int>(item % args.n_heads);
        const float* q =
            args.query + (span.first_row + row) * args.query_stride + static_cast<int64_t>(head) * layout.key_dim;
        float* out =
            args.out + (span.first_row + row) * args.out_stride + static_cast<int64_t>(head) * layout.value_dim;
        const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
        const auto tile_of = [&](int64_t p) {
          return args.kv + span.block_table[p / kKvBlockTokens] * layout.stride() + head / group * layout.head_bytes();
        };
        scores.clear();
        double highest = args.sinks != nullptr ? args.sinks[head] : -INFINITY;
        for (int64_t p = first; p <= position; ++p) {
          load_key(layout, tile_of(p), static_cast<int>(p % kKvBlockTokens), key.data());
          double score = 0.0;
          for (int d = 0; d < layout.key_dim; ++d) score += static_cast<double>(q[d]) * key[static_cast<size_t>(d)];
          score *= args.scale;
          if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
          scores.push_back(score);
          highest = std::max(highest, score);
        }
        double total = args.sinks != nullptr ? std::exp(args.sinks[head] - highest) : 0.0;
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t p = first; p <= position; ++p) {
          const double weight = std::exp(scores[static_cast<size_t>(p - first)] - highest);
          total += weight;
          load_value(layout, tile_of(p) + layout.key_tile_bytes(), static_cast<int>(p % kKvBlockTokens), value.data());
          for (int d = 0; d < layout.value_dim; ++d)
            sum[static_cast<size_t>(d)] += weight * value[static_cast<size_t>(d)];
        }
        for (int d = 0; d < layout.value_dim; ++d) out[d] = static_cast<float>(sum[static_cast<size_t>(d)] / total);
      }
    });
  }
}

}  // namespace halfbyte::ops::reference
