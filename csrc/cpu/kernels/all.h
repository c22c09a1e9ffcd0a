// A whole CPU level: every kernel compiled for it, and the table that offers them. A level file defines
// HALFBYTE_LEVEL (its name), HALFBYTE_FILL (its entry) and its instruction switches, then includes this.
// Everything but the entry lives in an anonymous namespace: code shared between levels would be merged by the linker.
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

namespace halfbyte::cpu {

namespace {

#if defined(HALFBYTE_AVX512)
constexpr int kDirectTokens = 6, kTilePanels = 2, kTileTokens = 6, kFloatTokens = 8;
#elif defined(__aarch64__)
constexpr int kDirectTokens = 2, kTilePanels = 1, kTileTokens = 3, kFloatTokens = 3;
#else
constexpr int kDirectTokens = 2, kTilePanels = 1, kTileTokens = 4, kFloatTokens = 3;
#endif

// Each builds on those before it.
// clang-format off
#include "cpu/kernels/simd.h"
#include "cpu/kernels/unpack.h"
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
  const auto set = [&](PanelKind kind, IntPanelKernel kernel) { k.int_panel[static_cast<int>(kind)] = kernel; };
  set(PanelKind::q4_0, int_panels<PanelQ4_0>);
  set(PanelKind::q4_1, int_panels<PanelQ4_1>);
  set(PanelKind::q5_0, int_panels<PanelQ5_0>);
  set(PanelKind::q5_1, int_panels<PanelQ5_1>);
  set(PanelKind::q8_0, int_panels<PanelQ8_0>);
  set(PanelKind::iq4_nl, int_panels<PanelIQ4_NL>);
  set(PanelKind::mxfp4, int_panels<PanelMXFP4>);
  set(PanelKind::iq4_xs, int_panels<PanelIQ4_XS>);
  set(PanelKind::q4_k, int_panels<PanelQ4_K>);
  set(PanelKind::q5_k, int_panels<PanelQ5_K>);
  set(PanelKind::q6_k, int_panels<PanelQ6_K>);
  set(PanelKind::q3_k, int_panels<PanelQ3_K>);
  set(PanelKind::q2_k, int_panels<PanelQ2_K>);
  set(PanelKind::nvfp4, int_panels<PanelNVFP4>);
  set(PanelKind::table3, int_panels<PanelTable3<1>>);
  set(PanelKind::table3_two_scales, int_panels<PanelTable3<2>>);
  set(PanelKind::table4, int_panels<PanelTable4>);
  set(PanelKind::ternary, int_panels<PanelTernary<8>>);
  set(PanelKind::q2_0, int_panels<PanelTernary<2>>);
  set(PanelKind::q1_0, int_panels<PanelQ1_0>);
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
  k.attend = attend;
  k.dot_rounds = dot_rounds;
}

}  // namespace halfbyte::cpu
