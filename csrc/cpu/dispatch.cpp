// The ladder.
#include "cpu/cpu.h"

namespace halfbyte::cpu {

const ops::Ops& cpu_ops() {
  return ops::reference_ops();
}
const ops::Ops& cpu_ops(CpuLevel) {
  return ops::reference_ops();
}

}  // namespace halfbyte::cpu
