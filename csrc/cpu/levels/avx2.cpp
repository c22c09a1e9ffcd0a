// The CPU level avx2.
#define HALFBYTE_LEVEL "avx2"
#define HALFBYTE_FILL fill_avx2
#include "cpu/kernels/all.h"
