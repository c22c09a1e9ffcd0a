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

// So many independent sums hide the latency of a multiply-add without leaving the registers.
#if defined(HALFBYTE_AVX512)
constexpr int kChains = 16;
#else
constexpr int kChains = 4;
#endif
constexpr int vectors_for(int n_queries) {
  return n_queries >= kChains ? 1 : kChains / n_queries >= 4 ? 4 : kChains / n_queries;
}

// scores[b][q][16] of B KV blocks: sum over dims in increasing order, one accumulator a score.
template <class Keys, int N, int B>
inline void score_blocks(const AttentionTask& task, const uint8_t* const* tiles, F16x scores[][N]) {
  F16x sums[B][N];
  for (int b = 0; b < B; ++b)
    for (int q = 0; q < N; ++q) sums[b][q] = f_zero();
  for (int d = 0; d < task.key_dim; ++d) {
    F16x keys[B];
    for (int b = 0; b < B; ++b) keys[b] = Keys::load(tiles[b], task.key_dim, d);
    for (int q = 0; q < N; ++q) {
      const F16x query = f_set(task.queries[d * N + q]);
      for (int b = 0; b < B; ++b) sums[b][q] = f_fma(keys[b], query, sums[b][q]);
    }
  }
  for (int b = 0; b < B; ++b)
    for (int q = 0; q < N; ++q) scores[b][q] = sums[b][q];
}

// Dims of 16 positions from four bytes of each, as floats.
struct KeysQ8 {
  static constexpr int kDims = 4;
  static void load(const uint8_t* codes, F16x keys[kDims]) {
    const I16x four = b_load(codes);
    keys[0] = f_from(i_sar<24>(i_shl<24>(four)));
    keys[1] = f_from(i_sar<24>(i_shl<16>(four)));
    keys[2] = f_from(i_sar<24>(i_shl<8>(four)));
    keys[3] = f_from(i_sar<24>(four));
  }
};
struct KeysQ4 {
  static constexpr int kDims = 8;
  static void load(const uint8_t* codes, F16x keys[kDims]) {
    const I16x both = b_load(codes);
    const F16x eight = f_set(8.0f);
    keys[0] = f_sub(f_from(i_shr<28>(i_shl<28>(both))), eight);
    keys[1] = f_sub(f_from(i_shr<28>(i_shl<20>(both))), eight);
    keys[2] = f_sub(f_from(i_shr<28>(i_shl<12>(both))), eight);
    keys[3] = f_sub(f_from(i_shr<28>(i_shl<4>(both))), eight);
    keys[4] = f_sub(f_from(i_shr<28>(i_shl<24>(both))), eight);
    keys[5] = f_sub(f_from(i_shr<28>(i_shl<16>(both))), eight);
    keys[6] = f_sub(f_from(i_shr<28>(i_shl<8>(both))), eight);
    keys[7] = f_sub(f_from(i_shr<28>(both)), eight);
  }
};

// As score_blocks; a group's sum is scaled once.
template <class Keys, int N, int B>
inline void score_quantized_blocks(const AttentionTask& task, const uint8_t* const* tiles, F16x scores[][N]) {
  const int n_groups = task.key_dim / 32;
  for (int b = 0; b < B; ++b)
    for (int q = 0; q < N; ++q) scores[b][q] = f_zero();
  for (int group = 0; group < n_groups; ++group) {
    F16x sums[B][N];
    for (int b = 0; b < B; ++b)
      for (int q = 0; q < N; ++q) sums[b][q] = f_zero();
    for (int d = 32 * group; d < 32 * group + 32; d += Keys::kDims) {
      F16x keys[B][Keys::kDims];
      for (int b = 0; b < B; ++b) Keys::load(tiles[b] + 32 * n_groups + 64 * (d / Keys::kDims), keys[b]);
      for (int i = 0; i < Keys::kDims; ++i) {
        for (int q = 0; q < N; ++q) {
          const F16x query = f_set(task.queries[(d + i) * N + q]);
          for (int b = 0; b < B; ++b) sums[b][q] = f_fma(keys[b][i], query, sums[b][q]);
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      const F16x scale = f_load_f16(tiles[b] + 32 * group);
      for (int q = 0; q < N; ++q) scores[b][q] = f_fma(sums[b][q], scale, scores[b][q]);
    }
  }
}

// Unpacked keys need registers beside the sums: two blocks at most, with few queries.
template <class Keys, int N>
inline void score_quantized(const AttentionTask& task, const uint8_t* const* tiles, int n_blocks, F16x scores[][N]) {
  constexpr int B = vectors_for(N) < 2 ? 1 : 2;
  int b = 0;
  for (; b + B <= n_blocks; b += B) score_quantized_blocks<Keys, N, B>(task, tiles + b, scores + b);
  for (; b < n_blocks; ++b) score_quantized_blocks<Keys, N, 1>(task, tiles + b, scores + b);
}

template <class Keys, int N>
inline void score_floats(const AttentionTask& task, const uint8_t* const* tiles, int n_blocks, F16x scores[][N]) {
  constexpr int B = vectors_for(N);
  int b = 0;
  for (; b + B <= n_blocks; b += B) score_blocks<Keys, N, B>(task, tiles + b, scores + b);
  for (; b < n_blocks; ++b) score_blocks<Keys, N, 1>(task, tiles + b, scores + b);
}

template <int N>
inline void score(const AttentionTask& task, const uint8_t* const* tiles, int n_blocks, F16x scores[][N]) {
  switch (task.k_type) {
    case 0:
      return score_floats<KeysF16, N>(task, tiles, n_blocks, scores);
    case 1:
      return score_floats<KeysBF16, N>(task, tiles, n_blocks, scores);
    case 2:
      return score_floats<KeysF32, N>(task, tiles, n_blocks, scores);
    case 3:
      return score_quantized<KeysQ8, N>(task, tiles, n_blocks, scores);
    default:
      return score_quantized<KeysQ4, N>(task, tiles, n_blocks, scores);
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

// V vectors of dims from `dim` on: sum[q] += weights[q][t] * value[t] for positions begin .. end of the chunk, in
// increasing order; begin is a block's first.
template <int N, int Type, int V>
inline void add_value_vectors(const AttentionTask& task, const uint8_t* const* tiles, int begin, int end,
                              float weights[N][kChunk], const bool* sees, int dim) {
  F16x acc[N][V];
  for (int q = 0; q < N; ++q)
    for (int v = 0; v < V; ++v) acc[q][v] = f_load(task.sum + q * task.value_dim + dim + 16 * v);
  for (int first = begin; first < end; first += 16) {
    const uint8_t* tile = tiles[first / 16];
    const int n = end - first < 16 ? end - first : 16;
    for (int t = 0; t < n; ++t) {
      F16x values[V];
      for (int v = 0; v < V; ++v) values[v] = value_at(Type, tile, task.value_dim, t, dim + 16 * v);
      for (int q = 0; q < N; ++q) {
        const F16x weight = f_set(weights[q][first + t]);
        for (int v = 0; v < V; ++v) acc[q][v] = f_fma(weight, values[v], acc[q][v]);
      }
    }
  }
  for (int q = 0; q < N; ++q) {
    if (!sees[q]) continue;
    for (int v = 0; v < V; ++v) f_store(task.sum + q * task.value_dim + dim + 16 * v, acc[q][v]);
  }
}

template <int N, int Type>
inline void add_values_typed(const AttentionTask& task, const uint8_t* const* tiles, int begin, int end,
                             float weights[N][kChunk], const bool* sees) {
  constexpr int V = vectors_for(N);
  int dim = 0;
  for (; dim + 16 * V <= task.value_dim; dim += 16 * V)
    add_value_vectors<N, Type, V>(task, tiles, begin, end, weights, sees, dim);
  for (; dim < task.value_dim; dim += 16) add_value_vectors<N, Type, 1>(task, tiles, begin, end, weights, sees, dim);
}

template <int N>
inline void add_values(const AttentionTask& task, const uint8_t* const* tiles, int begin, int end,
                       float weights[N][kChunk], const bool* sees) {
  switch (task.v_type) {
    case 0:
      return add_values_typed<N, 0>(task, tiles, begin, end, weights, sees);
    case 1:
      return add_values_typed<N, 1>(task, tiles, begin, end, weights, sees);
    case 2:
      return add_values_typed<N, 2>(task, tiles, begin, end, weights, sees);
    case 3:
      return add_values_typed<N, 3>(task, tiles, begin, end, weights, sees);
    default:
      return add_values_typed<N, 4>(task, tiles, begin, end, weights, sees);
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
    const uint8_t* tiles[kChunk / 16] = {};
    for (int b = block_begin; b < block_end; ++b) {
      tiles[b] = reinterpret_cast<const uint8_t*>(task.kv) + task.block_table[chunk / 16 + b] * task.block_bytes +
                 task.head_offset;
    }
    score<N>(task, tiles + block_begin, block_end - block_begin, scores + block_begin);
    for (int b = block_begin; b < block_end; ++b) {
      tiles[b] += task.value_offset;
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
    add_values<N>(task, tiles, 16 * block_begin, static_cast<int>(last - chunk) + 1, weights, sees);
  }
}

void attend(const AttentionTask& task) {
  switch (task.n_queries) {
    case 1:
      return attend_queries<1>(task);
    case 2:
      return attend_queries<2>(task);
    case 3:
      return attend_queries<3>(task);
    case 4:
      return attend_queries<4>(task);
    case 6:
      return attend_queries<6>(task);
    default:
      return attend_queries<8>(task);
  }
}
