// Panel times tokens. Bound for one token: the panel's bytes over memory bandwidth; for many: 8 dot4 per 32 columns,
// token and 16 rows. The order of sums is fixed: one f32 accumulator per (row, token), blocks of 32 columns in
// increasing order, inside a block the group's dot first, then its minimum. So any split of tokens gives the same bits.
// Included by level files only, inside their anonymous namespace.

// Adds one group's dot (n_units units from `codes`) of token t to acc.
template <class L, int n_units>
inline F16x add_group(F16x acc, const B64* codes, const int8_t* q, F16x scale, float d, int32_t sum) {
  constexpr int kRun = 2 * kRunUnits<L::kMaxCode> < n_units ? 2 * kRunUnits<L::kMaxCode> : n_units;
  I16x even = dot_start<L::kOffset, L::kMaxCode>(sum), odd = i_set(0);
  for (int first = 0; first < n_units; first += kRun) {
    I16x even_run = run_start(even), odd_run = run_start(odd);
    for (int c = first; c < first + kRun; c += 2) {
      even_run = dot4<L::kMaxCode>(even_run, codes[c], b_four(q + 4 * c));
      odd_run = dot4<L::kMaxCode>(odd_run, codes[c + 1], b_four(q + 4 * c + 4));
    }
    even = run_end(even, even_run);
    odd = run_end(odd, odd_run);
  }
  return f_fma(f_from(i_add(even, odd)), f_mul(scale, f_set(d)), acc);
}

template <class L>
inline F16x add_block(F16x acc, const B64 codes[8], const F16x* scales, const F16x* minimums, const QuantizedRow& row,
                      int64_t block) {
  const int8_t* q = row.q + 32 * block;
  const float d = row.d[block];
  const int32_t* sum = row.sum + 2 * block;
  if constexpr (L::kGroups == 1) {
    const int32_t both = sum[0] + sum[1];
    acc = add_group<L, 8>(acc, codes, q, scales[0], d, both);
    if constexpr (L::kHasMin) acc = f_fma(minimums[0], f_set(d * static_cast<float>(both)), acc);
  } else {
    for (int g = 0; g < 2; ++g) {
      acc = add_group<L, 4>(acc, codes + 4 * g, q + 16 * g, scales[g], d, sum[g]);
      if constexpr (L::kHasMin) acc = f_fma(minimums[g], f_set(d * static_cast<float>(sum[g])), acc);
    }
  }
  return acc;
}

// What panel_direct asks memory for ahead of where it is: panels lie one behind another. What a core gets in the time
// of an access, several times over: when the other cores rest, it may have their part of the memory's speed.
constexpr int kBytesAhead = 8192;

// A few tokens: codes go from the panel to registers and are used once for each token.
template <class L, int T>
void panel_direct(const uint8_t* panel, int64_t n_cols, const QuantizedRow* rows, float* out) {
  F16x acc[T];
  for (int t = 0; t < T; ++t) acc[t] = f_zero();
  const int64_t n_blocks = n_cols / 32;
  for (int64_t block = 0; block < n_blocks;) {
    const auto head = L::head(panel);
    panel += L::kHeadBytes;
    for (int b = 0; b < L::kSuper; ++b, ++block, panel += L::kBlockBytes) {
      for (int line = 0; line < L::kBlockBytes; line += 64) __builtin_prefetch(panel + kBytesAhead + line);
      B64 codes[8];
      L::codes(head, panel, codes);
      F16x scales[2], minimums[2];
      for (int g = 0; g < L::kGroups; ++g) {
        scales[g] = L::scale(head, panel, g);
        if constexpr (L::kHasMin) minimums[g] = L::minimum(head, panel, g);
      }
      for (int t = 0; t < T; ++t) acc[t] = add_block<L>(acc[t], codes, scales, minimums, rows[t], block);
    }
  }
  for (int t = 0; t < T; ++t) f_store(out + 16 * t, acc[t]);
}

// Many tokens: tiles of P panels x T tokens pass over a chunk of unpacked blocks (chunk.h); their f32 sums wait in
// `out` between chunks.

// Adds n_blocks blocks of P unpacked panels times T tokens to out: panel p's sums at out + p * out_stride.
// Integer and float sums stay in registers; four columns of a token are broadcast once for all panels.
template <class L, int P, int T>
void tile(const uint8_t* workspace, int n_blocks, int64_t first_block, const QuantizedRow* rows, float* out,
          int64_t out_stride) {
  constexpr int kUnits = 8 / L::kGroups, kPanelStep = kChunkBlocks * kUnpackedBytes;
  constexpr int kRun = kRunUnits<L::kMaxCode> < kUnits ? kRunUnits<L::kMaxCode> : kUnits;
  F16x acc[P][T];
  for (int p = 0; p < P; ++p)
    for (int t = 0; t < T; ++t) acc[p][t] = first_block == 0 ? f_zero() : f_load(out + p * out_stride + 16 * t);
  for (int block = 0; block < n_blocks; ++block, workspace += kUnpackedBytes) {
    for (int g = 0; g < L::kGroups; ++g) {
      int32_t sums[T];
      I16x dots[P][T];
      for (int t = 0; t < T; ++t) {
        const int32_t* sum = rows[t].sum + 2 * (first_block + block);
        sums[t] = L::kGroups == 1 ? sum[0] + sum[1] : sum[g];
        const I16x start = dot_start<L::kOffset, L::kMaxCode>(sums[t]);
        for (int p = 0; p < P; ++p) dots[p][t] = start;
      }
      for (int first = g * kUnits; first < (g + 1) * kUnits; first += kRun) {
        I16x runs[P][T];
        for (int t = 0; t < T; ++t)
          for (int p = 0; p < P; ++p) runs[p][t] = run_start(dots[p][t]);
        for (int c = first; c < first + kRun; ++c) {
          B64 codes[P];
          for (int p = 0; p < P; ++p) codes[p] = b_load(workspace + p * kPanelStep + 64 * c);
          for (int t = 0; t < T; ++t) {
            const Four four = b_four(rows[t].q + 32 * (first_block + block) + 4 * c);
            for (int p = 0; p < P; ++p) runs[p][t] = dot4<L::kMaxCode>(runs[p][t], codes[p], four);
          }
        }
        for (int t = 0; t < T; ++t)
          for (int p = 0; p < P; ++p) dots[p][t] = run_end(dots[p][t], runs[p][t]);
      }
      F16x scales[P], minimums[P];
      for (int p = 0; p < P; ++p) {
        const float* numbers = reinterpret_cast<const float*>(workspace + p * kPanelStep + 512);
        scales[p] = f_load(numbers + 16 * g);
        if constexpr (L::kHasMin) minimums[p] = f_load(numbers + 32 + 16 * g);
      }
      for (int t = 0; t < T; ++t) {
        const float d = rows[t].d[first_block + block];
        const F16x ds = f_set(d), dsum = f_set(d * static_cast<float>(sums[t]));
        for (int p = 0; p < P; ++p) {
          acc[p][t] = f_fma(f_from(dots[p][t]), f_mul(scales[p], ds), acc[p][t]);
          if constexpr (L::kHasMin) acc[p][t] = f_fma(minimums[p], dsum, acc[p][t]);
        }
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int t = 0; t < T; ++t) f_store(out + p * out_stride + 16 * t, acc[p][t]);
}

template <class L, int P, int T>
void tile_or_less(const uint8_t* workspace, int n_blocks, int64_t first_block, const QuantizedRow* rows, int n_tokens,
                  float* out, int64_t out_stride) {
  if constexpr (T > 0) {
    if (n_tokens == T) return tile<L, P, T>(workspace, n_blocks, first_block, rows, out, out_stride);
    return tile_or_less<L, P, T - 1>(workspace, n_blocks, first_block, rows, n_tokens, out, out_stride);
  }
}

template <class L, int P>
void panels_chunked(const uint8_t* panel, int64_t panel_bytes, int64_t n_cols, const QuantizedRow* rows, int n_tokens,
                    uint8_t* workspace, float* out) {
  const int64_t n_blocks = n_cols / 32, out_stride = int64_t{16} * n_tokens;
  for (int64_t first = 0; first < n_blocks; first += kChunkBlocks) {
    const int n = n_blocks - first < kChunkBlocks ? static_cast<int>(n_blocks - first) : kChunkBlocks;
    for (int p = 0; p < P; ++p)
      unpack_blocks<L>(panel + p * panel_bytes, first, n, workspace + p * kChunkBlocks * kUnpackedBytes, b_store);
    // Tiles of nearly one size: a last one of a token or two would wait for its own sums.
    int n_tiles = (n_tokens + kTileTokens - 1) / kTileTokens;
    for (int t = 0; t < n_tokens; --n_tiles) {
      const int some = (n_tokens - t + n_tiles - 1) / n_tiles;
      tile_or_less<L, P, kTileTokens>(workspace, n, first, rows + t, some, out + 16 * t, out_stride);
      t += some;
    }
  }
}

template <class L, int T>
void direct_or_less(const uint8_t* panel, int64_t n_cols, const QuantizedRow* rows, int n_tokens, float* out) {
  if constexpr (T > 0) {
    if (n_tokens == T) return panel_direct<L, T>(panel, n_cols, rows, out);
    return direct_or_less<L, T - 1>(panel, n_cols, rows, n_tokens, out);
  }
}

template <class L>
void int_panels(const uint8_t* panel, int64_t panel_bytes, int n_panels, int64_t n_cols, const QuantizedRow* rows,
                int n_tokens, uint8_t* workspace, float* out) {
  if (n_tokens <= kDirectTokens) {
    for (int p = 0; p < n_panels; ++p)
      direct_or_less<L, kDirectTokens>(panel + p * panel_bytes, n_cols, rows, n_tokens, out + 16 * p * n_tokens);
    return;
  }
  for_tiles(n_panels, [&](auto n, int p) {
    panels_chunked<L, n>(panel + p * panel_bytes, panel_bytes, n_cols, rows, n_tokens, workspace,
                         out + int64_t{16} * p * n_tokens);
  });
}

// Float weights, [column][16 rows]: two accumulators (even and odd columns), added at the end.
struct LoadF32 {
  static constexpr int kBytes = 64;
  static F16x load(const uint8_t* p) { return f_load(reinterpret_cast<const float*>(p)); }
};
struct LoadF16 {
  static constexpr int kBytes = 32;
  static F16x load(const uint8_t* p) { return f_load_f16(p); }
};
struct LoadBF16 {
  static constexpr int kBytes = 32;
  static F16x load(const uint8_t* p) { return f_load_bf16(p); }
};

template <class Load, int T>
void float_tile(const uint8_t* panel, int64_t n_cols, const float* const* rows, float* out) {
  F16x even[T], odd[T];
  for (int t = 0; t < T; ++t) even[t] = odd[t] = f_zero();
  int64_t k = 0;
  for (; k + 2 <= n_cols; k += 2, panel += 2 * Load::kBytes) {
    const F16x w0 = Load::load(panel), w1 = Load::load(panel + Load::kBytes);
    for (int t = 0; t < T; ++t) {
      even[t] = f_fma(w0, f_set(rows[t][k]), even[t]);
      odd[t] = f_fma(w1, f_set(rows[t][k + 1]), odd[t]);
    }
  }
  if (k < n_cols) {
    const F16x w = Load::load(panel);
    for (int t = 0; t < T; ++t) even[t] = f_fma(w, f_set(rows[t][k]), even[t]);
  }
  for (int t = 0; t < T; ++t) f_store(out + 16 * t, f_add(even[t], odd[t]));
}

template <class Load, int T>
void float_tile_or_less(const uint8_t* panel, int64_t n_cols, const float* const* rows, int n_tokens, float* out) {
  if constexpr (T > 0) {
    if (n_tokens == T) return float_tile<Load, T>(panel, n_cols, rows, out);
    return float_tile_or_less<Load, T - 1>(panel, n_cols, rows, n_tokens, out);
  }
}

template <class Load>
void float_panel(const uint8_t* panel, int64_t n_cols, const float* const* rows, int n_tokens, float* out) {
  for (int t = 0; t < n_tokens; t += kFloatTokens) {
    const int n = n_tokens - t < kFloatTokens ? n_tokens - t : kFloatTokens;
    float_tile_or_less<Load, kFloatTokens>(panel, n_cols, rows + t, n, out + 16 * t);
  }
}
