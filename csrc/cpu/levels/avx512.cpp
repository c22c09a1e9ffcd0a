// The CPU level avx512.
#define HALFBYTE_LEVEL "avx512"
#define HALFBYTE_FILL fill_avx512
#define HALFBYTE_AVX512
#include "cpu/kernels/all.h"
