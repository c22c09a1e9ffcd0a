// Attention of a few queries that share one kv head, over a run of KV positions, by online softmax (Milakov and
// Gimelshein 2018) in chunks of 64 positions. Lanes are positions for scores and dims for values, so nothing is
// transposed or summed across lanes but once a chunk. Bound: K and V are read once for all queries of the call.
// A query's result depends on its own first and last position only: chunks that it cannot see are skipped for it.
// Included by level files only, inside their anonymous namespace.

constexpr int kChunk = 64;

struct KeysF16 {
  static F16x load(const uint8_t* tile, int, int d) { return f_load_f16(tile + 32 * d); }
};
struct KeysBF16 {
  static F16x load(const uint8_t* tile, int, int d) { return f_load_bf16(tile + 32 * d); }
};
struct KeysF32 {
  static F16x load(const uint8_t* tile, int, int d) { return f_load(reinterpret_cast<const float*>(tile) + 16 * d); }
};

// scores[q][16] of one KV block: sum over dims in increasing order, one accumulator a query.
template <class Keys, int N>
inline void score_block(const AttentionTask& task, const uint8_t* tile, F16x scores[N]) {
  for (int q = 0; q < N; ++q) scores[q] = f_zero();
  for (int d = 0; d < task.key_dim; ++d) {
    const F16x key = Keys::load(tile, task.key_dim, d);
    for (int q = 0; q < N; ++q) scores[q] = f_fma(key, f_set(task.queries[q][d]), scores[q]);
  }
}

template <int N>
inline void score_block_q8(const AttentionTask& task, const uint8_t* tile, F16x scores[N]) {
  const uint8_t* codes = tile + 2 * (task.key_dim / 32) * 16;
  for (int q = 0; q < N; ++q) scores[q] = f_zero();
  for (int group = 0; group < task.key_dim / 32; ++group) {
    F16x sums[N];
    for (int q = 0; q < N; ++q) sums[q] = f_zero();
    for (int d = 32 * group; d < 32 * group + 32; d += 4) {
      const I16x four = b_load(codes + 64 * (d / 4));
      const F16x keys[4] = {f_from(i_sar<24>(i_shl<24>(four))), f_from(i_sar<24>(i_shl<16>(four))),
                            f_from(i_sar<24>(i_shl<8>(four))), f_from(i_sar<24>(four))};
      for (int i = 0; i < 4; ++i) {
        for (int q = 0; q < N; ++q) sums[q] = f_fma(keys[i], f_set(task.queries[q][d + i]), sums[q]);
      }
    }
    const F16x scale = f_load_f16(tile + 32 * group);
    for (int q = 0; q < N; ++q) scores[q] = f_fma(sums[q], scale, scores[q]);
  }
}

template <int N>
inline void score_block_q4(const AttentionTask& task, const uint8_t* tile, F16x scores[N]) {
  const uint8_t* codes = tile + 2 * (task.key_dim / 32) * 16;
  const F16x eight = f_set(8.0f);
  for (int q = 0; q < N; ++q) scores[q] = f_zero();
  for (int group = 0; group < task.key_dim / 32; ++group) {
    F16x sums[N];
    for (int q = 0; q < N; ++q) sums[q] = f_zero();
    for (int d = 32 * group; d < 32 * group + 32; d += 8) {
      const I16x both = b_load(codes + 64 * (d / 8));
      const F16x keys[8] = {f_from(i_shr<28>(i_shl<28>(both))), f_from(i_shr<28>(i_shl<20>(both))),
                            f_from(i_shr<28>(i_shl<12>(both))), f_from(i_shr<28>(i_shl<4>(both))),
                            f_from(i_shr<28>(i_shl<24>(both))), f_from(i_shr<28>(i_shl<16>(both))),
                            f_from(i_shr<28>(i_shl<8>(both))),  f_from(i_shr<28>(both))};
      for (int i = 0; i < 8; ++i) {
        for (int q = 0; q < N; ++q) sums[q] = f_fma(f_sub(keys[i], eight), f_set(task.queries[q][d + i]), sums[q]);
      }
    }
    const F16x scale = f_load_f16(tile + 32 * group);
    for (int q = 0; q < N; ++q) scores[q] = f_fma(sums[q], scale, scores[q]);
  }
}

template <int N>
inline void score(const AttentionTask& task, const uint8_t* tile, F16x scores[N]) {
  switch (task.k_type) {
    case 0:
      return score_block<KeysF16, N>(task, tile, scores);
    case 1:
      return score_block<KeysBF16, N>(task, tile, scores);
    case 2:
      return score_block<KeysF32, N>(task, tile, scores);
    case 3:
      return score_block_q8<N>(task, tile, scores);
    default:
      return score_block_q4<N>(task, tile, scores);
  }
}

// 16 dims (or fewer, for the last) of position t's value, starting at dim.
inline F16x value_at(int type, const uint8_t* tile, int value_dim, int t, int dim) {
  switch (type) {
    case 0:
      return f_load_f16(tile + 2 * (t * value_dim + dim));
    case 1:
      return f_load_bf16(tile + 2 * (t * value_dim + dim));
    case 2:
      return f_load(reinterpret_cast<const float*>(tile) + t * value_dim + dim);
    default:
      break;
  }
  const int n_groups = value_dim / 32;
  uint16_t bits[16];
  for (uint16_t& b : bits) __builtin_memcpy(&b, tile + 2 * (t * n_groups + dim / 32), 2);
  const F16x scale = f_load_f16(bits);
  const uint8_t* codes = tile + 2 * n_groups * 16;
  if (type == 3) return f_mul(scale, f_load_i8(codes + t * value_dim + dim));
  const I16x pairs = i_load_u8(codes + t * value_dim / 2 + dim / 32 * 16);
  const F16x nibbles = f_from(dim % 32 == 0 ? i_shr<28>(i_shl<28>(pairs)) : i_shr<4>(pairs));
  return f_mul(scale, f_sub(nibbles, f_set(8.0f)));
}

// sum[q] += weights[q][t] * value[t] for the chunk's positions, in increasing order.
template <int N, int Type>
inline void add_values_typed(const AttentionTask& task, int64_t chunk, int begin, int end, float weights[N][kChunk],
                             const bool* sees) {
  for (int dim = 0; dim < task.value_dim; dim += 16) {
    F16x acc[N];
    for (int q = 0; q < N; ++q) acc[q] = f_load(task.sum + q * task.value_dim + dim);
    for (int t = begin; t < end; ++t) {
      const int64_t position = chunk + t;
      const uint8_t* tile = reinterpret_cast<const uint8_t*>(task.kv) +
                            task.block_table[position / 16] * task.block_bytes + task.head_offset + task.value_offset;
      const F16x value = value_at(Type, tile, task.value_dim, static_cast<int>(position % 16), dim);
      for (int q = 0; q < N; ++q) acc[q] = f_fma(f_set(weights[q][t]), value, acc[q]);
    }
    for (int q = 0; q < N; ++q) {
      if (sees[q]) f_store(task.sum + q * task.value_dim + dim, acc[q]);
    }
  }
}

template <int N>
inline void add_values(const AttentionTask& task, int64_t chunk, int begin, int end, float weights[N][kChunk],
                       const bool* sees) {
  switch (task.v_type) {
    case 0:
      return add_values_typed<N, 0>(task, chunk, begin, end, weights, sees);
    case 1:
      return add_values_typed<N, 1>(task, chunk, begin, end, weights, sees);
    case 2:
      return add_values_typed<N, 2>(task, chunk, begin, end, weights, sees);
    case 3:
      return add_values_typed<N, 3>(task, chunk, begin, end, weights, sees);
    default:
      return add_values_typed<N, 4>(task, chunk, begin, end, weights, sees);
  }
}

template <int N>
void attend_queries(const AttentionTask& task) {
  const F16x scale = f_set(task.scale), lowest = f_set(-3e38f);
  alignas(64) float weights[N][kChunk];
  for (int64_t chunk = task.begin; chunk < task.end; chunk += kChunk) {
    const int64_t chunk_end = chunk + kChunk < task.end ? chunk + kChunk : task.end;
    bool sees[N];
    bool any = false;
    int64_t first = chunk_end, last = chunk - 1;
    for (int q = 0; q < N; ++q) {
      sees[q] = task.first[q] < chunk_end && task.last[q] >= chunk;
      any = any || sees[q];
      if (!sees[q]) continue;
      if (task.first[q] < first) first = task.first[q];
      if (task.last[q] > last) last = task.last[q];
    }
    if (!any) continue;
    if (first < chunk) first = chunk;
    if (last >= chunk_end) last = chunk_end - 1;
    const int block_begin = static_cast<int>(first - chunk) / 16, block_end = static_cast<int>(last - chunk) / 16 + 1;

    F16x scores[kChunk / 16][N];
    for (int b = block_begin; b < block_end; ++b) {
      const uint8_t* tile = reinterpret_cast<const uint8_t*>(task.kv) +
                            task.block_table[chunk / 16 + b] * task.block_bytes + task.head_offset;
      score<N>(task, tile, scores[b]);
      for (int q = 0; q < N; ++q) {
        F16x s = f_mul(scores[b][q], scale);
        if (task.softcap > 0) s = f_mul(f_set(task.softcap), f_tanh(f_div(s, f_set(task.softcap))));
        const int64_t base = chunk + 16 * b;
        int64_t low = task.first[q] - base, high = task.last[q] - base;
        low = low < 0 ? 0 : low;
        high = high > 15 ? 15 : high;
        scores[b][q] = low > high               ? lowest
                       : low == 0 && high == 15 ? s
                                                : f_keep(s, lowest, static_cast<int>(low), static_cast<int>(high));
      }
    }
    for (int q = 0; q < N; ++q) {
      for (float& w : weights[q]) w = 0.0f;
      if (!sees[q]) continue;
      F16x best = lowest;
      for (int b = block_begin; b < block_end; ++b) best = f_max(best, scores[b][q]);
      const float chunk_highest = f_highest(best);
      float highest = task.highest[q];
      if (chunk_highest > highest) {
        // What was summed so far shrinks by e^(old - new).
        float shrink[16];
        f_store(shrink, f_exp(f_set(highest - chunk_highest)));
        const float factor = task.total[q] > 0 ? shrink[0] : 0.0f;
        task.total[q] *= factor;
        for (int d = 0; d < task.value_dim; d += 16) {
          float* sum = task.sum + q * task.value_dim + d;
          f_store(sum, f_mul(f_load(sum), f_set(factor)));
        }
        task.highest[q] = highest = chunk_highest;
      }
      // Positions outside [first, last] stay exactly zero, and every query sums the same four vectors in order.
      F16x total = f_zero();
      for (int b = block_begin; b < block_end; ++b) {
        const int64_t base = chunk + 16 * b;
        int64_t low = task.first[q] - base, high = task.last[q] - base;
        low = low < 0 ? 0 : low;
        high = high > 15 ? 15 : high;
        if (low > high) continue;
        const F16x e = f_exp(f_sub(scores[b][q], f_set(highest)));
        const F16x w = f_keep(e, f_zero(), static_cast<int>(low), static_cast<int>(high));
        f_store(weights[q] + 16 * b, w);
        total = f_add(total, w);
      }
      task.total[q] += f_sum(total);
    }
    // Values of a block are read only where some query has weight.
    add_values<N>(task, chunk, 16 * block_begin, static_cast<int>(last - chunk) + 1, weights, sees);
  }
}

void attend(const AttentionTask& task) {
  switch (task.n_queries) {
    case 1:
      return attend_queries<1>(task);
    case 2:
      return attend_queries<2>(task);
    case 4:
      return attend_queries<4>(task);
    default:
      return attend_queries<8>(task);
  }
}
