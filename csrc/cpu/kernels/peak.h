// The rate of the level's dot instructions alone: a loop between registers, what no kernel can pass.
// Included by level files only, inside their anonymous namespace.

// Runs n_rounds of kPeakDots runs of dots of 64 products and returns their sum, so that no compiler drops them.
constexpr int kPeakDots = kTilePanels * kTileTokens, kPeakUnits = kRunUnits<15>;

inline void hide(B64& codes) {
#if defined(HALFBYTE_AVX512)
  asm volatile("" : "+v"(codes));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(codes.v[0]), "+w"(codes.v[1]), "+w"(codes.v[2]), "+w"(codes.v[3]));
#else
  asm volatile("" : "+x"(codes.a), "+x"(codes.b));
#endif
}

int64_t dot_rounds(int64_t n_rounds, int64_t* n_products) {
  const int8_t columns[4] = {1, 2, 3, 4};
  const Four four = b_four(columns);
  B64 codes = b_set(3);
  I16x sums[kPeakDots];
  for (I16x& sum : sums) sum = i_set(0);
  for (int64_t i = 0; i < n_rounds; ++i) {
    I16x runs[kPeakDots];
    for (int s = 0; s < kPeakDots; ++s) runs[s] = run_start(sums[s]);
    for (int unit = 0; unit < kPeakUnits; ++unit) {
      for (I16x& run : runs) {
        hide(codes);
        run = dot4<15>(run, codes, four);
      }
    }
    for (int s = 0; s < kPeakDots; ++s) sums[s] = run_end(sums[s], runs[s]);
  }
  I16x total = i_set(0);
  for (const I16x& sum : sums) total = i_add(total, sum);
  *n_products = n_rounds * kPeakUnits * kPeakDots * 64;
  int32_t twice[2];
  i_store_sums(twice, total, total);
  return twice[0];
}
