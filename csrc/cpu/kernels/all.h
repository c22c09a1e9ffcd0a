// A whole CPU level: every kernel compiled for it, and the table that offers them. A level file defines
// HALFBYTE_LEVEL (its name), HALFBYTE_FILL (its entry) and its instruction switches, then includes this.
// Everything but the entry lives in an anonymous namespace: code shared between levels would be merged by the linker.
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include <type_traits>

#include "cpu/kernels.h"

namespace halfbyte::cpu {

namespace {

#if defined(HALFBYTE_AVX512)
constexpr int kDirectTokens = 6, kTilePanels = 2, kTileTokens = 6, kFloatTokens = 8;
#elif defined(__aarch64__)
constexpr int kDirectTokens = 2, kTilePanels = 1, kTileTokens = 3, kFloatTokens = 3;
#else
constexpr int kDirectTokens = 2, kTilePanels = 1, kTileTokens = 3, kFloatTokens = 3;
#endif

// Calls run with whole tiles of panels, then with single ones: the number of panels, as a constant, and the first.
template <class Run>
inline void for_tiles(int n_panels, Run run) {
  int p = 0;
  for (; p + kTilePanels <= n_panels; p += kTilePanels) run(std::integral_constant<int, kTilePanels>(), p);
  for (; p < n_panels; ++p) run(std::integral_constant<int, 1>(), p);
}

// Each builds on those before it.
// clang-format off
#include "cpu/kernels/simd.h"
#include "cpu/kernels/unpack.h"
#include "cpu/kernels/rounding.h"
#include "cpu/kernels/chunk.h"
#include "cpu/kernels/matmul.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/peak.h"
// clang-format on

}  // namespace

void HALFBYTE_FILL(Kernels& k) {
  k.name = HALFBYTE_LEVEL;
  k.direct_tokens = kDirectTokens;
  k.workspace_bytes = int64_t{kTilePanels} * kChunkBlocks * kUnpackedBytes;
  k.tile_panels = kTilePanels;
  k.quantize = quantize;
  for_each_int_panel([&]<class L>(PanelKind kind) {
    k.int_panel[static_cast<int>(kind)] = int_panels<L>;
    k.add_outliers[static_cast<int>(kind)] = add_outliers<L>;
  });
  k.float_panel[static_cast<int>(PanelKind::f32)] = float_panel<LoadF32>;
  k.float_panel[static_cast<int>(PanelKind::f16)] = float_panel<LoadF16>;
  k.float_panel[static_cast<int>(PanelKind::bf16)] = float_panel<LoadBF16>;
  k.dot = dot;
  k.finish = finish;
  k.glu = glu;
  k.norm = norm;
  k.rotate = rotate;
  k.add = add;
  k.softcap = softcap;
  k.mix = mix;
  k.cut = cut;
  k.attend = attend;
  k.dot_rounds = dot_rounds;
}

}  // namespace halfbyte::cpu
