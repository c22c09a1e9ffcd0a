// The CPU level neon_dotprod: ARMv8.2 with the dot product instructions.
#define HALFBYTE_LEVEL "neon_dotprod"
#define HALFBYTE_FILL fill_neon_dotprod
#include "cpu/kernels/all.h"
