// The CPU level neon: every 64-bit ARM.
#define HALFBYTE_LEVEL "neon"
#define HALFBYTE_FILL fill_neon
#include "cpu/kernels/all.h"
