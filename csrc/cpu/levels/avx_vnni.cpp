// The CPU level avx_vnni.
#define HALFBYTE_LEVEL "avx_vnni"
#define HALFBYTE_FILL fill_avx_vnni
#define HALFBYTE_AVX_VNNI
#include "cpu/kernels/all.h"
