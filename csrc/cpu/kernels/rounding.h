// Activations rounded to 8 bits in blocks of 32, and outliers: those so much larger than the 31 beside them that they
// would cost them their precision. What 8 bits leave of an outlier is multiplied in f32, after all blocks. Included by
// level files only, inside their anonymous namespace.

// A block's largest activation is an outlier where setting it apart takes this many times the mean of the blocks'
// second largest squares off the square of the block's scale, to which the error of rounding is proportional.
constexpr float kWorthwhile = 6.0f;

int32_t quantize(const float* x, int64_t n_cols, int8_t* q, float* d, int32_t* sum, Outlier* outliers) {
  const int64_t n_blocks = n_cols / 32;
  float squares = 0.0f;
  for (int64_t block = 0; block < n_blocks; ++block) {
    const TopTwo top = f_top_two(f_abs(f_load(x + 32 * block)), f_abs(f_load(x + 32 * block + 16)));
    d[block] = top.first;
    outliers[block].rest = top.second;  // waits here: no more outliers than blocks are found
    squares = __builtin_fmaf(top.second, top.second, squares);
  }
  const float worthwhile = kWorthwhile / static_cast<float>(n_blocks) * squares;
  int32_t n_outliers = 0;
  for (int64_t block = 0; block < n_blocks; ++block) {
    const float first = d[block], second = outliers[block].rest;
    const bool is_apart = first * first > __builtin_fmaf(second, second, worthwhile);
    const float amax = is_apart ? second : first, inverse = amax > 0 ? 127.0f / amax : 0.0f;
    // The clamp holds for the outlier, and for activations that are not finite (their scale is not either).
    const F16x low = f_set(-127.0f), high = f_set(127.0f), scale = f_set(inverse);
    const F16x xa = f_load(x + 32 * block), xb = f_load(x + 32 * block + 16);
    const I16x qa = i_from(f_max(f_min(f_mul(xa, scale), high), low));
    const I16x qb = i_from(f_max(f_min(f_mul(xb, scale), high), low));
    i_store_i8(q + 32 * block, qa);
    i_store_i8(q + 32 * block + 16, qb);
    d[block] = amax / 127.0f;
    i_store_sums(sum + 2 * block, qa, qb);
    // Written even if it is none: which block has one, no branch predictor knows.
    const int64_t column = 32 * block + f_find(f_abs(xa), f_abs(xb), first);
    const float rest = __builtin_fmaf(-d[block], static_cast<float>(q[column]), x[column]);
    outliers[n_outliers] = {static_cast<int32_t>(column), rest};
    n_outliers += is_apart ? 1 : 0;
  }
  return n_outliers;
}

// Columns of a panel, unpacked block by block: those of one block should be asked for in turn.
template <class L>
class PanelColumns {
 public:
  explicit PanelColumns(const uint8_t* panel) : panel_(panel) {}

  F16x operator()(int32_t column) {
    const int unit = column % 32 / 4, group = L::kGroups == 1 ? 0 : unit / 4;
    if (column / 32 != block_) unpack(column / 32);
    const I16x codes = byte_of(codes_[unit], column % 4);
    const F16x scaled = f_mul(f_from(i_add(codes, i_set(-L::kOffset))), scales_[group]);
    if constexpr (L::kHasMin) return f_add(scaled, minimums_[group]);
    return scaled;
  }

 private:
  void unpack(int block) {
    block_ = block;
    const uint8_t* p = panel_ + block / L::kSuper * (L::kHeadBytes + L::kSuper * L::kBlockBytes);
    const auto head = L::head(p);
    p += L::kHeadBytes + block % L::kSuper * L::kBlockBytes;
    L::codes(head, p, codes_);
    for (int g = 0; g < L::kGroups; ++g) {
      scales_[g] = L::scale(head, p, g);
      if constexpr (L::kHasMin) minimums_[g] = L::minimum(head, p, g);
    }
  }
  static I16x byte_of(B64 four, int byte) {
    switch (byte) {
      case 0:
        return i_shr<24>(i_shl<24>(four));
      case 1:
        return i_shr<24>(i_shl<16>(four));
      case 2:
        return i_shr<24>(i_shl<8>(four));
      default:
        return i_shr<24>(four);
    }
  }

  const uint8_t* panel_;
  int block_ = -1;
  B64 codes_[8];
  F16x scales_[L::kGroups], minimums_[L::kGroups];
};

// Adds all outliers of many tokens to the sums of P panels, whose column c is unpacked at workspace + c * P * 16.
// Tokens with equally many outliers follow each other, so that the inner loop's end is foreseen.
template <int P>
void add_shared_outliers(const QuantizedRow* rows, const OutlierColumns& shared, const float* workspace, float* out,
                         int64_t out_stride) {
  for (int32_t i = 0; i < shared.n_tokens; ++i) {
    const QuantizedRow& row = rows[shared.tokens[i]];
    float* to = out + int64_t{16} * shared.tokens[i];
    F16x acc[P];
    for (int p = 0; p < P; ++p) acc[p] = f_load(to + p * out_stride);
    for (int32_t o = 0; o < row.n_outliers; ++o) {
      const float* column = workspace + int64_t{16} * P * row.outliers[o].column;
      const F16x rest = f_set(row.outliers[o].rest);
      for (int p = 0; p < P; ++p) acc[p] = f_fma(f_load(column + 16 * p), rest, acc[p]);
    }
    for (int p = 0; p < P; ++p) f_store(to + p * out_stride, acc[p]);
  }
}

template <class L, int P>
void unpack_outliers_and_add(const uint8_t* panel, int64_t panel_bytes, const QuantizedRow* rows,
                             const OutlierColumns& shared, int n_tokens, float* workspace, float* out) {
  for (int p = 0; p < P; ++p) {
    PanelColumns<L> of_panel(panel + p * panel_bytes);
    for (int32_t i = 0; i < shared.n_columns; ++i)
      f_store(workspace + int64_t{16} * (P * shared.columns[i] + p), of_panel(shared.columns[i]));
  }
  add_shared_outliers<P>(rows, shared, workspace, out, int64_t{16} * n_tokens);
}

// Adds what rows' outliers contribute to out, which is as of IntPanelKernel.
template <class L>
void add_outliers(const uint8_t* panel, int64_t panel_bytes, int n_panels, const QuantizedRow* rows,
                  const OutlierColumns& shared, int n_tokens, float* workspace, float* out) {
  if (shared.columns != nullptr) {
    for_tiles(n_panels, [&](auto n, int p) {
      unpack_outliers_and_add<L, n>(panel + p * panel_bytes, panel_bytes, rows, shared, n_tokens, workspace,
                                    out + int64_t{16} * p * n_tokens);
    });
    return;
  }
  for (int p = 0; p < n_panels; ++p, out += 16 * n_tokens) {
    PanelColumns<L> of_panel(panel + p * panel_bytes);
    bool is_more = true;
    for (int32_t i = 0; is_more; ++i) {  // tokens' i-th outliers often share a block
      is_more = false;
      for (int t = 0; t < n_tokens; ++t) {
        if (i >= rows[t].n_outliers) continue;
        const Outlier outlier = rows[t].outliers[i];
        f_store(out + 16 * t, f_fma(of_panel(outlier.column), f_set(outlier.rest), f_load(out + 16 * t)));
        is_more = true;
      }
    }
  }
}
