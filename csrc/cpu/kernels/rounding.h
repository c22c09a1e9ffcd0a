// Activations rounded to 8 bits in blocks of 32, and the one of a row that is too large for its block: it would cost
// the 31 beside it their precision. What 8 bits leave of it is multiplied in f32, after all blocks. Included by level
// files only, inside their anonymous namespace.

// An outlier is set apart where that takes this much off the squares of all blocks' scales, to which the error of
// rounding is proportional.
constexpr float kWorthwhile = 0.2f;

// The outlier of the block with the largest scale. amax holds each block's largest magnitude, of which the outlier's
// block then has the second; total is the sum of their squares.
inline Outlier find_outlier(const float* x, int64_t block, float total, float* amax) {
  const float largest = amax[block];
  Outlier found;
  float second = 0.0f;
  for (int i = 0; i < 32; ++i) {
    const float magnitude = __builtin_fabsf(x[32 * block + i]);
    if (found.column < 0 && magnitude == largest)
      found.column = static_cast<int32_t>(32 * block + i);
    else if (magnitude > second)
      second = magnitude;
  }
  if (!(largest * largest - second * second > kWorthwhile * total)) return {};  // also where something is not finite
  amax[block] = second;
  return found;
}

Outlier quantize(const float* x, int64_t n_cols, int8_t* q, float* d, int32_t* sum) {
  const int64_t n_blocks = n_cols / 32;
  int64_t worst = 0;
  float total = 0.0f;
  for (int64_t block = 0; block < n_blocks; ++block) {
    d[block] = f_highest(f_max(f_abs(f_load(x + 32 * block)), f_abs(f_load(x + 32 * block + 16))));
    total += d[block] * d[block];
    if (d[block] > d[worst]) worst = block;
  }
  Outlier outlier = find_outlier(x, worst, total, d);
  for (int64_t block = 0; block < n_blocks; ++block) {
    const float amax = d[block], inverse = amax > 0 ? 127.0f / amax : 0.0f;
    // The clamp holds for the outlier, and for activations that are not finite (their scale is not either).
    const F16x low = f_set(-127.0f), high = f_set(127.0f), scale = f_set(inverse);
    const I16x qa = i_from(f_max(f_min(f_mul(f_load(x + 32 * block), scale), high), low));
    const I16x qb = i_from(f_max(f_min(f_mul(f_load(x + 32 * block + 16), scale), high), low));
    i_store_i8(q + 32 * block, qa);
    i_store_i8(q + 32 * block + 16, qb);
    d[block] = amax / 127.0f;
    sum[2 * block] = i_sum(qa);
    sum[2 * block + 1] = i_sum(qb);
  }
  if (outlier.column >= 0) outlier.rest = x[outlier.column] - d[worst] * static_cast<float>(q[outlier.column]);
  return outlier;
}

// A column of a panel.
template <class L>
F16x panel_column(const uint8_t* panel, int32_t column) {
  const int block = column / 32, unit = column % 32 / 4;
  panel += block / L::kSuper * (L::kHeadBytes + L::kSuper * L::kBlockBytes);
  const auto head = L::head(panel);
  panel += L::kHeadBytes + block % L::kSuper * L::kBlockBytes;
  B64 codes[8];
  L::codes(head, panel, codes);
  const B64 four = codes[unit];
  I16x one;
  switch (column % 4) {
    case 0:
      one = i_shr<24>(i_shl<24>(four));
      break;
    case 1:
      one = i_shr<24>(i_shl<16>(four));
      break;
    case 2:
      one = i_shr<24>(i_shl<8>(four));
      break;
    default:
      one = i_shr<24>(four);
  }
  const int group = L::kGroups == 1 ? 0 : unit / 4;
  const F16x scaled = f_mul(f_from(i_add(one, i_set(-L::kOffset))), L::scale(head, panel, group));
  if constexpr (L::kHasMin) return f_add(scaled, L::minimum(head, panel, group));
  return scaled;
}

// Adds what rows' outliers contribute to out, which is as of IntPanelKernel.
template <class L>
void add_outliers(const uint8_t* panel, int64_t panel_bytes, int n_panels, const QuantizedRow* rows, int n_tokens,
                  float* out) {
  for (int p = 0; p < n_panels; ++p, panel += panel_bytes) {
    int32_t column = -1;  // tokens often share one
    F16x weights = f_zero();
    for (int t = 0; t < n_tokens; ++t, out += 16) {
      const Outlier outlier = rows[t].outlier;
      if (outlier.column < 0) continue;
      if (outlier.column != column) {
        column = outlier.column;
        weights = panel_column<L>(panel, column);
      }
      f_store(out, f_fma(weights, f_set(outlier.rest), f_load(out)));
    }
  }
}
