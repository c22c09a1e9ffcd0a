// The CPU level amx: what AMX's matrix unit does better than the level avx512.
#include <immintrin.h>

#include "cpu/kernels.h"

namespace halfbyte::cpu {

namespace {

#define HALFBYTE_AVX512
// Each builds on those before it.
// clang-format off
#include "cpu/kernels/simd.h"
#include "cpu/kernels/unpack.h"
#include "cpu/kernels/chunk.h"
#include "cpu/kernels/tiles.h"
#include "cpu/kernels/matrix_unit.h"
// clang-format on

}  // namespace

void fill_amx(Kernels& k) {
  k.name = "amx";
  k.workspace_bytes = int64_t{kUnitPanels} * kChunkBlocks * kUnpackedBytes;
  k.tile_panels = kUnitPanels;
  k.unit.count_pieces = count_pieces;
  k.unit.arrange = arrange;
  for_each_int_panel([&]<class L>(PanelKind kind) { k.unit.panels[static_cast<int>(kind)] = unit_panels<L>; });
  k.dot_rounds = unit_rounds;
}

}  // namespace halfbyte::cpu
