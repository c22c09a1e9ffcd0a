// Leaf kernels: what a CPU level fills in. Pointers only, so that a level's object shares no code with another's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfbyte::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kMostStreams = 8;  // as ops::kMostStreams

// An activation that would take precision from its group: x = d * q + rest, and d leaves it out.
struct Outlier {
  int32_t column;
  float rest;
};

// Activations of one token quantized in groups of 32 columns: x = d * q, d = amax / 127.
struct QuantizedRow {
  const int8_t* q = nullptr;          // (n_cols)
  const float* d = nullptr;           // (n_cols / 32)
  const int32_t* sum = nullptr;       // (n_cols / 16) sums of 16 codes
  const Outlier* outliers = nullptr;  // by column, at most one of a group
  int32_t n_outliers = 0;
};

// Which outliers many rows have: a panel unpacks each column once.
struct OutlierColumns {
  const int32_t* columns = nullptr;  // (n_columns) increasing; nullptr: rows are few
  const int32_t* tokens = nullptr;   // (n_tokens) of rows with outliers, by how many they have
  int32_t n_columns = 0, n_tokens = 0;
};

// The packed kernels' families: what a panel's bytes mean (ops/packed.h).
enum class PanelKind : uint8_t {
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  iq4_nl,
  mxfp4,
  iq4_xs,
  q4_k,
  q5_k,
  q6_k,
  q3_k,
  q2_k,
  nvfp4,
  table3,
  table3_two_scales,
  table4,
  ternary,
  q2_0,
  q1_0,
  f32,
  f16,
  bf16,
};
inline constexpr int kPanelKinds = 23;
inline constexpr int kFirstFloatKind = static_cast<int>(PanelKind::f32);

// out[(p * n_tokens + t) * 16 + r] = dot of row r of panel p with token t's codes; panels stand panel_bytes apart.
using IntPanelKernel = void (*)(const uint8_t* panel, int64_t panel_bytes, int n_panels, int64_t n_cols,
                                const QuantizedRow* rows, int n_tokens, uint8_t* workspace, float* out);
// Adds to the same out what tokens' outliers are more than their codes. workspace: where rows are many, room for n_cols
// * n_panels * 16 floats.
using OutlierKernel = void (*)(const uint8_t* panel, int64_t panel_bytes, int n_panels, const QuantizedRow* rows,
                               const OutlierColumns& shared, int n_tokens, float* workspace, float* out);
// out[t * 16 + r] = dot of panel row r with token t.
using FloatPanelKernel = void (*)(const uint8_t* panel, int64_t n_cols, const float* const* rows, int n_tokens,
                                  float* out);

// Some quantized tokens times some blocks as a matrix unit reads them.
struct TokenPiece {
  uint8_t bytes[16 * 9 * 64];
};
// As IntPanelKernel, from pieces.
using UnitKernel = void (*)(const uint8_t* panel, int64_t panel_bytes, int n_panels, int64_t n_cols,
                            const TokenPiece* pieces, int n_tokens, uint8_t* workspace, float* out);

// A level's matrix unit, which multiplies more than direct_tokens tokens; nothing set where a level has none.
struct MatrixUnit {
  int64_t (*count_pieces)(int64_t n_tokens, int64_t n_cols) = nullptr;
  // Writes piece number `piece`.
  void (*arrange)(const QuantizedRow* rows, int64_t n_tokens, int64_t n_cols, int64_t piece, TokenPiece* out) = nullptr;
  UnitKernel panels[kFirstFloatKind] = {};
};

// One head group's attention over KV positions [begin, end) of one segment. See attention.cpp for the scheme.
struct AttentionTask {
  const float* queries = nullptr;  // (key_dim, n_queries): a kernel reads them through one pointer
  const int64_t* first = nullptr;  // per query: first and last visible position
  const int64_t* last = nullptr;
  int n_queries = 0;  // 1, 2, 3, 4, 6 or 8
  const std::byte* kv = nullptr;
  const int32_t* block_table = nullptr;
  int64_t block_bytes = 0;
  int64_t head_offset = 0;     // of the kv head in a block
  int64_t value_offset = 0;    // of the value tile after the key tile
  int k_type = 0, v_type = 0;  // ops::KvType
  int key_dim = 0, value_dim = 0;
  float scale = 1.0f, softcap = 0.0f;
  int64_t begin = 0, end = 0;  // positions, begin a multiple of 64
  float* highest = nullptr;    // (n_queries) running maximum, in and out
  float* total = nullptr;      // (n_queries) running sum of weights
  float* sum = nullptr;        // (n_queries, value_dim) running weighted values
};

// out[t, r] (+)= scale * activation(values[t, r] + bias[r]) for one panel's rows.
struct FinishTask {
  const float* values = nullptr;  // (n_tokens, 16)
  int64_t n_tokens = 0;
  int n_rows = 0;                // 1 to 16: rows that exist
  const float* bias = nullptr;   // (n_rows) or nullptr
  int activation = 0;            // ops::Activation
  const float* times = nullptr;  // (n_tokens, 16), multiplied in after the activation, or nullptr
  float scale = 1.0f;
  bool accumulate = false;
  float* out = nullptr;  // row t at out + t * out_stride
  int64_t out_stride = 0;
};

struct Kernels {
  const char* name = nullptr;
  int direct_tokens = 0;  // up to this many tokens the panel kernels need no workspace
  int64_t workspace_bytes = 0;
  int tile_panels = 1;  // panels that a kernel handles together for many tokens
  // Quantizes n_cols floats (a multiple of 32) and returns how many outliers it found; there is room for n_cols / 32.
  int32_t (*quantize)(const float* x, int64_t n_cols, int8_t* q, float* d, int32_t* sum, Outlier* outliers) = nullptr;
  IntPanelKernel int_panel[kFirstFloatKind] = {};
  OutlierKernel add_outliers[kFirstFloatKind] = {};
  FloatPanelKernel float_panel[kPanelKinds] = {};
  MatrixUnit unit;
  float (*dot)(const float* a, const float* b, int64_t n) = nullptr;  // fixed order for a given n
  void (*finish)(const FinishTask& task) = nullptr;
  void (*glu)(int activation, const float* gate, const float* up, float* out, int64_t n) = nullptr;
  void (*norm)(bool layer, const float* x, float* out, int64_t dim, const float* weight, const float* bias,
               float eps) = nullptr;
  void (*rotate)(bool adjacent, float* head, int rope_dim, const float* cosines, const float* sines) = nullptr;
  void (*add)(float* x, const float* y, float scale, int64_t n) = nullptr;
  void (*softcap)(float* x, int64_t n, float cap) = nullptr;
  // A row of ops::Mix.
  void (*mix)(const float* weights, const float* in, int n_in, float* out, int n_out, bool accumulate,
              int64_t n) = nullptr;
  void (*cut)(float* x, int64_t n, float deviations) = nullptr;
  void (*attend)(const AttentionTask& task) = nullptr;
  // n_rounds of integer dots between registers; returns their sum and how many products it holds.
  int64_t (*dot_rounds)(int64_t n_rounds, int64_t* n_products) = nullptr;
};

// The levels' only exported functions (levels/<level>.cpp).
void fill_avx2(Kernels& kernels);
void fill_avx_vnni(Kernels& kernels);
void fill_avx512(Kernels& kernels);
void fill_amx(Kernels& kernels);
void fill_neon(Kernels& kernels);
void fill_neon_dotprod(Kernels& kernels);

}  // namespace halfbyte::cpu
