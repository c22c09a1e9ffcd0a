// The ops that every backend fills in. ops/reference defines what each one means; a backend may only be faster.
//
// All activations are f32, row-major, in the backend's memory. "tokens" are rows of the batch. A backend's result for a
// row must depend only on that row (and, for attention, on the KV blocks that it names): never on which other rows are
// in the call, nor on the number of threads. That is the determinism promise.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/threads.h"
#include "ops/kv_layout.h"
#include "ops/matrix.h"
#include "ops/memory.h"

namespace halfbyte::ops {

// The role of a row: numerics may differ between the two, but never within one.
enum class Role : uint8_t { prefill, decode };

// silu(x) = x / (1 + e^-x); gelu is the erf form, gelu_tanh the tanh approximation, gelu_quick x * sigmoid(1.702 x).
enum class Activation : uint8_t { none, silu, gelu, gelu_tanh, gelu_quick, relu, relu_squared };

enum class NormKind : uint8_t { rms, layer };

// rotate pairs (2i, 2i+1): `adjacent` (llama GGUF order); (i, i + rope_dim/2): `halves` (NeoX order).
enum class RopeKind : uint8_t { none, adjacent, halves };

// A run of consecutive rows of the batch that belong together for linear(): same numerics.
struct RowRun {
  int64_t begin = 0, end = 0;
  Role role = Role::prefill;
};

// One output of linear(): out[t, r] (+)= scale * act(dot(w[r, :], x[t, :]) + bias[r]).
struct Projection {
  const Matrix* weight = nullptr;
  const float* bias = nullptr;  // (n_rows) or nullptr
  float* out = nullptr;         // row t at out + t * out_stride
  int64_t out_stride = 0;       // floats
  Activation activation = Activation::none;
  float scale = 1.0f;
  bool accumulate = false;  // add to what `out` holds (residual)
};

// How the experts of a row are chosen by the router's logits, and what each counts.
//   scores = softmax(logits) over all experts, or sigmoid(logits); the n_used highest of score + bias are chosen, the
//   first of equal ones; weight = scale * score, or scale * score / (sum of the chosen's scores) where normalized;
//   times the expert's strength, where there are any.
// With several groups of equally many experts, in order, only those of the n_groups_used best take part: a group is as
// good as its best expert (softmax), or as its two best together (sigmoid).
enum class Gating : uint8_t { softmax, sigmoid };
inline constexpr int kMostExpertGroups = 32;
struct Routing {
  Gating gating = Gating::softmax;
  int n_experts = 0;
  int n_used = 0;
  bool normalize = true;
  float scale = 1.0f;
  const float* bias = nullptr;       // (n_experts), only for choosing; or nullptr
  const float* strengths = nullptr;  // (n_experts), or nullptr
  int n_groups = 1, n_groups_used = 1;
};

// What route() found: the experts of each row, all different, and their weights.
struct Chosen {
  int n_used = 0;
  const int32_t* experts = nullptr;  // (n_tokens, n_used)
  const float* weights = nullptr;    // (n_tokens, n_used)
};

// The gated unit of experts: act(g) * (u + shift), where g = gate.x + bias and u = up.x + bias; limit > 0 first caps g
// at limit and u at -limit and limit.
struct ExpertUnit {
  const Matrix* gate = nullptr;  // stacks of n_experts matrices (n_ff, n_cols)
  const Matrix* up = nullptr;
  const float* gate_bias = nullptr;  // (n_experts, n_ff) or nullptr
  const float* up_bias = nullptr;
  Activation activation = Activation::silu;
  float limit = 0.0f;
  float shift = 0.0f;
};

// One sequence's rows in an attention call: n_rows consecutive query rows at positions first_position, +1, ...
// Each row at position p sees keys at positions [max(0, p - window + 1), p] (window 0: from 0), all already stored.
struct AttentionSpan {
  int64_t first_row = 0;
  int64_t n_rows = 0;
  int64_t first_position = 0;
  Role role = Role::prefill;
  const int32_t* block_table = nullptr;  // KV block of positions 16i..16i+15 at index i; entries wholly before every
                                         // row's window may be -1 (freed) and are never read
};

struct AttentionArgs {
  const float* query = nullptr;  // (n_tokens, n_heads, key_dim)
  int64_t query_stride = 0;      // floats between rows
  float* out = nullptr;          // (n_tokens, n_heads, value_dim)
  int64_t out_stride = 0;
  const std::byte* kv = nullptr;  // this layer's KV blocks: block b at kv + b * layout.stride()
  KvLayout layout;
  int n_heads = 0;               // query heads; head h reads kv head h / (n_heads / n_kv_heads)
  float scale = 1.0f;            // multiplies q.k
  float softcap = 0.0f;          // > 0: s = softcap * tanh(s / softcap) before the softmax
  int64_t window = 0;            // > 0: sliding window of that many positions, the query's own included
  const float* sinks = nullptr;  // (n_heads) logits of a virtual extra key without value, or nullptr
  std::span<const AttentionSpan> spans;
  const Matrix* next = nullptr;  // as norm()'s
};

// Rope with per-pair inverse frequencies (rope_dim/2 of them): angle = position * inv_freq[i]; cos and sin are
// multiplied by magnitude (YaRN, LongRoPE). Dims past rope_dim pass through.
struct RopeArgs {
  RopeKind kind = RopeKind::none;
  int rope_dim = 0;
  const float* inv_freq = nullptr;
  float magnitude = 1.0f;
};

// Heads on their way to the cache: norm() of each, rope(), and for keys and values store_kv().
struct HeadRows {
  float* rows = nullptr;  // row t at rows + t * stride
  int64_t stride = 0;     // floats
  int n_heads = 0;
  const float* norm_weight = nullptr;  // (key_dim) for the norm of each head; nullptr: none
  const float* norm_bias = nullptr;
};
struct HeadArgs {
  HeadRows query, key;
  const float* value = nullptr;  // (n_tokens, n_kv_heads, value_dim)
  int64_t value_stride = 0;
  int64_t n_tokens = 0;
  NormKind norm = NormKind::rms;
  float norm_eps = 0.0f;
  RopeArgs rope;
  const int32_t* positions = nullptr;  // (n_tokens), in host memory
  KvLayout layout;
  std::byte* kv = nullptr;
  const int64_t* slots = nullptr;  // (n_tokens), in host memory; see store_kv()
};

// Rows of several streams of n floats each, one stream after another; strides are floats between rows.
// out[t, s, :] (+)= sum over r of weights[t, s, r] * in[t, r, :].
inline constexpr int kMostStreams = 8;
struct Mix {
  const float* weights = nullptr;  // (n_tokens, n_out, n_in)
  int64_t weight_stride = 0;       // 0: the same for all rows
  const float* in = nullptr;
  int64_t in_stride = 0;
  int n_in = 1;
  float* out = nullptr;  // may be `in`, or none of its floats
  int64_t out_stride = 0;
  int n_out = 1;  // as n_in, at most kMostStreams
  bool accumulate = false;
};

// A token that may be chosen: its index in a row of logits; -1: none.
struct Likely {
  int32_t token = -1;
  float logit = 0.0f;
};
inline constexpr int kMostLikely = 256;

// What a call runs on. Backends keep scratch memory behind `scratch`.
struct Context {
  ThreadPool* pool = nullptr;
  void* scratch = nullptr;
};

// What changes from one step of a model to the next, in host memory. The arrays stay as they are until end_step(), and
// the ops of the step are called with pointers into them.
struct StepInputs {
  std::span<const int32_t> positions;    // (n_tokens)
  std::span<const int64_t> slots;        // (n_tokens), for each group of layers that has KV blocks of its own
  std::span<const AttentionSpan> spans;  // likewise; ops are called with one group's part
  std::span<const int32_t> picked;       // argument of pick_rows()
  // Steps with equal keys call the same ops in the same order with the same pointers and shapes; what differs is the
  // arrays above (of equal sizes) and the values in memory. 0: this step is unlike others.
  uint64_t key = 0;
};

// The largest step that a context will run. Counts of numbers are those of the widest row of any layer.
struct StepShape {
  int64_t n_rows = 0, n_logit_rows = 0;
  int64_t n_sequences = 0, n_positions = 0;  // of one sequence
  int64_t n_kv_groups = 1;                   // groups of layers that have KV blocks of their own
  int64_t n_inputs = 0, n_gated = 0;         // what linear() takes, what linear_glu() gives
  int64_t n_vocab = 0;
  int n_heads = 0, value_dim = 0;
  int n_experts = 0, n_used = 0;
  int64_t n_expert_values = 0;  // what an expert's matrix takes or gives
};

struct Ops {
  const char* name = nullptr;  // "reference", "cpu avx512", ...

  // Where all pointers of the ops below point to, unless an argument is said to be in host memory.
  const Memory* memory = nullptr;

  // Around the ops of a step, for backends that upload its inputs at once and replay recorded steps; nullptr for those
  // that do not. begin_step() returns true when the ops need not be called: end_step() then replays what they did under
  // the same key. Ops also work outside of steps.
  bool (*begin_step)(const Context&, const StepInputs&) = nullptr;
  void (*end_step)(const Context&, bool is_complete) = nullptr;  // false: the step was given up

  // The most dimensions of a head that attention() takes; 0: any number.
  int most_head_dim = 0;

  // Makes and destroys whatever Context::scratch points to.
  void* (*create_scratch)(ThreadPool& pool) = nullptr;
  void (*destroy_scratch)(void* scratch) = nullptr;

  // Packs a matrix for this backend, on the pool's threads. `keep_raw` asks for Layout::raw (no copy), which embed()
  // takes on every backend, and linear() on those on host memory, for any format.
  Matrix (*pack)(const MatrixSource& source, bool keep_raw, ThreadPool& pool) = nullptr;

  // Only on memory of their own (nullptr on the host's): bytes that pack() makes of a matrix, 0 for formats that it
  // refuses; and the end of packing, after which every packed matrix has arrived and what packing held is given back.
  int64_t (*packed_bytes)(const formats::Format& format, int64_t n_rows, int64_t n_cols) = nullptr;
  void (*finish_packing)() = nullptr;
  // Likewise: bytes of scratch memory that steps of this shape and smaller ones need, and their allocation, after which
  // such steps allocate nothing.
  int64_t (*scratch_bytes)(const StepShape&) = nullptr;
  void (*reserve_scratch)(const Context&, const StepShape&) = nullptr;

  // out[t, :] = scale * decoded row tokens[t] of `table` (layout raw). Token ids are in host memory, checked by the
  // caller. Called before begin_step().
  void (*embed)(const Context&, const Matrix& table, std::span<const int32_t> tokens, float scale,
                float* out) = nullptr;

  // All projections of one input x (n_tokens, n_cols); rows of `runs` cover 0..n_tokens in order.
  void (*linear)(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs,
                 std::span<const Projection> projections) = nullptr;

  // out[t, r] = act(gate[r].x[t] + gate_bias[r]) * (up[r].x[t] + up_bias[r]). next: as norm()'s.
  void (*linear_glu)(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs, const Matrix& gate,
                     const float* gate_bias, const Matrix& up, const float* up_bias, Activation act, float* out,
                     int64_t out_stride, const Matrix* next) = nullptr;

  // Mixtures of experts. logits: (n_tokens, n_experts). experts, weights: (n_tokens, n_used), what Chosen points to.
  void (*route)(const Context&, const Routing&, const float* logits, int64_t n_tokens, int32_t* experts,
                float* weights) = nullptr;
  // out[t * n_used + j, :] = unit of expert chosen.experts[t, j] on row t of x; out is (n_tokens * n_used, n_ff).
  void (*expert_glu)(const Context&, const float* x, int64_t x_stride, std::span<const RowRun> runs,
                     const ExpertUnit& unit, const Chosen& chosen, float* out) = nullptr;
  // out[t, :] (+)= scale * sum over j of weights[t, j] * (down[e] . hidden[t * n_used + j, :] + bias[e]) with e =
  // chosen.experts[t, j]. hidden: what expert_glu() left; down: a stack (n_rows, n_ff); bias: (n_experts, n_rows) or
  // nullptr.
  void (*expert_sum)(const Context&, const float* hidden, std::span<const RowRun> runs, const Matrix& down,
                     const float* bias, const Chosen& chosen, float scale, bool accumulate, float* out,
                     int64_t out_stride) = nullptr;

  // Each of n_rows rows of dim floats at x + r * x_stride: rms: x / sqrt(mean(x^2) + eps) * w;
  // layer: (x - mean) / sqrt(var + eps) * w + b. weight or bias may be nullptr (ones, zeros). In place allowed.
  // next: a matrix that the next op multiplies the rows of `out` with, so that a backend may prepare them for it; or
  // nullptr. It changes no result.
  void (*norm)(const Context&, NormKind kind, const float* x, int64_t x_stride, float* out, int64_t out_stride,
               int64_t n_rows, int64_t dim, const float* weight, const float* bias, float eps,
               const Matrix* next) = nullptr;

  // Rotates n_heads heads of head_dim floats in each row of x, in place. positions: (n_tokens), in host memory.
  void (*rope)(const Context&, const RopeArgs&, float* x, int64_t x_stride, int64_t n_tokens, int n_heads, int head_dim,
               const int32_t* positions) = nullptr;

  // Quantizes and writes the keys and values of n_tokens rows into their KV slots (slot = block * 16 + offset; -1:
  // skip). slots: in host memory.
  void (*store_kv)(const Context&, const KvLayout&, std::byte* kv, const float* k, int64_t k_stride, const float* v,
                   int64_t v_stride, int64_t n_tokens, const int64_t* slots) = nullptr;

  // The spans and their block tables are in host memory.
  void (*attention)(const Context&, const AttentionArgs&) = nullptr;

  // out[i, :] = x[rows[i], :] for rows of n floats. rows: ascending, in host memory. In place where memory is the
  // host's.
  void (*pick_rows)(const Context&, const float* x, int64_t n, std::span<const int32_t> rows, float* out) = nullptr;

  // out[t, i] = act(x[t, i]) * y[t, i] for rows of n floats (fused gate_up matrices, phi3: gate = x, up = y).
  void (*glu)(const Context&, Activation act, const float* gate, int64_t gate_stride, const float* up,
              int64_t up_stride, float* out, int64_t out_stride, int64_t n_tokens, int64_t n) = nullptr;

  // x[t, i] += scale * y[t, i] for rows of n floats.
  void (*add)(const Context&, float* x, const float* y, float scale, int64_t n_tokens, int64_t n) = nullptr;

  // x[i] = cap * tanh(x[i] / cap).
  void (*softcap)(const Context&, float* x, int64_t n, float cap) = nullptr;

  // Streams of rows, mixed (see Mix).
  void (*mix)(const Context&, const Mix&, int64_t n_tokens, int64_t n) = nullptr;
  // x[t, :] *= size(like[t, :]) / max(size(x[t, :]), floor) for rows of n floats; size: the root of the mean square.
  void (*match_size)(const Context&, float* x, int64_t x_stride, const float* like, int64_t like_stride,
                     int64_t n_tokens, int64_t n, float floor) = nullptr;
  // x[t, i] = max(0, x[t, i] - (mean + deviations * deviation)), both of the row's n floats.
  void (*cut)(const Context&, float* x, int64_t x_stride, int64_t n_tokens, int64_t n, float deviations) = nullptr;

  // The rest may be left out.

  // Fused ops; ops/fused.h makes them of others.
  // norm() of y in place, then add(): x[r, :] += scale * y[r, :]. Rows of dim floats; y may be left as it was.
  void (*norm_add)(const Context&, NormKind kind, float* y, float* x, float scale, int64_t n_rows, int64_t dim,
                   const float* weight, const float* bias, float eps) = nullptr;
  // Queries are changed in place; keys may be.
  void (*store_heads)(const Context&, const HeadArgs&) = nullptr;

  // out[r, :] = the n_likely highest of each row of logits (n_rows, n_vocab), the highest first, the lower token first
  // among equals. Minus infinity and what is not a number are left out: rows with fewer end in tokens -1.
  // 1 <= n_likely <= kMostLikely. For backends whose logits cost time to get at.
  void (*likely)(const Context&, const float* logits, int64_t n_rows, int64_t n_vocab, int n_likely,
                 Likely* out) = nullptr;
};

// Plain f32 C++: the definition of every op (ops/reference). Runs panels of no kind: its pack() keeps raw.
const Ops& reference_ops();

}  // namespace halfbyte::ops
