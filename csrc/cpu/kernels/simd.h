// The few vector words that kernels are written in: 16 lanes, one per panel row, whatever the level's registers.
//   F16x   16 f32        I16x   16 i32        B64   64 bytes: 16 rows x 4 columns        Four   4 columns of a token
// Of two words, f_top_two gives the two largest numbers, f_find the place of a number that is there, and i_store_sums
// the sum of each. Sums across lanes are taken in one order everywhere, so that all levels give the same bits. Included
// by level files only, inside their anonymous namespace: no standard library here.
#if defined(HALFBYTE_AVX512)
#include "cpu/kernels/simd_avx512.h"
#elif defined(__aarch64__)
#include "cpu/kernels/simd_neon.h"
#else
#include "cpu/kernels/simd_avx2.h"
#endif

// e^x by range reduction to [-ln2/2, ln2/2] and a polynomial of degree 6: relative error below 2e-7.
inline F16x f_exp(F16x x) {
  x = f_max(f_min(x, f_set(88.0f)), f_set(-87.0f));
  const F16x n = f_round(f_mul(x, f_set(1.44269504f)));
  F16x r = f_fma(n, f_set(-0.693359375f), x);
  r = f_fma(n, f_set(2.12194440e-4f), r);
  F16x p = f_set(1.0f / 720.0f);
  p = f_fma(p, r, f_set(1.0f / 120.0f));
  p = f_fma(p, r, f_set(1.0f / 24.0f));
  p = f_fma(p, r, f_set(1.0f / 6.0f));
  p = f_fma(p, r, f_set(0.5f));
  p = f_fma(p, r, f_set(1.0f));
  p = f_fma(p, r, f_set(1.0f));
  return f_mul(p, f_pow2(i_from(n)));
}

// tanh(x) = 1 - 2 / (e^2x + 1)
inline F16x f_tanh(F16x x) {
  return f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(f_exp(f_add(x, x)), f_set(1.0f))));
}
