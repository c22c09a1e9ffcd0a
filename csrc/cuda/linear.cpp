// Rounds the input once, gathers projections of one kind into one launch.
//
// Rows of both roles take the same kernels: a row's sums are added in an order that its matrix alone decides.
#include "cuda/linear.h"

#include <algorithm>
#include <cstring>

#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "cuda/experts.h"
#include "cuda/matmul.h"

namespace halfbyte::cuda {

namespace {

Kind kind_of_matrix(const ops::Matrix& m) {
  Kind kind;
  require(m.layout == ops::Layout::tiles && packed_kind(*m.format, kind), "A matrix that was not packed for the GPU.");
  return kind;
}

void set_table(const ops::Matrix& m, int row_tile, Part& part) {
  const Table& table = table_of(*m.format);
  std::memcpy(part.tables[row_tile].words, table.values, sizeof table.values);
  part.factors[row_tile] = table.factor;
}

int row_pairs(int64_t n_rows) {
  return static_cast<int>(row_tiles_of(n_rows) / 2);
}

void run(Kind kind, const Job& job, int n_groups, bool is_sequential, cudaStream_t stream) {
  using Run = void (*)(const Job&, int, bool, cudaStream_t);
  static constexpr Run kRuns[kKinds] = {
      multiply<Kind::q4_0>,          multiply<Kind::q4_1>,         multiply<Kind::q5_0>,
      multiply<Kind::q5_1>,          multiply<Kind::q8_0>,         multiply<Kind::table>,
      multiply<Kind::table_e8m0>,    multiply<Kind::table_half16>, multiply<Kind::table_super>,
      multiply<Kind::table_super16>, multiply<Kind::q2_k>,         multiply<Kind::q3_k>,
      multiply<Kind::q4_k>,          multiply<Kind::q5_k>,         multiply<Kind::q6_k>,
      multiply<Kind::ternary>,       multiply<Kind::f16>,          multiply<Kind::bf16>,
      multiply<Kind::f32>,
  };
  kRuns[static_cast<int>(kind)](job, n_groups, is_sequential, stream);
}

// Few tokens: blocks of no more groups than there are.
void run(Kind kind, const Job& job, cudaStream_t stream) {
  const int n_groups = job.x.n_groups();
  run(kind, job, n_groups <= 2 ? n_groups : 8, job.x.n_tokens >= kManyTokens, stream);
}

// The input of one call, rounded when the first matrix of a type asks for it.
class Input {
 public:
  Input(Session& session, const float* x, int64_t stride, int64_t n_tokens, int64_t n_cols)
      : session_(session), x_(x), stride_(stride), n_tokens_(n_tokens), n_cols_(n_cols) {}

  // Rows that the op before may have rounded already.
  Input(Session& session, const float* x, int64_t stride, int64_t n_tokens, int64_t n_cols, const Prepared& prepared)
      : Input(session, x, stride, n_tokens, n_cols) {
    is_made_ = prepared.rows == x && prepared.n_cols == n_cols && stride == n_cols &&
               prepared.operands.n_tokens >= n_tokens && prepared.operands.codes != nullptr;
    if (is_made_) made_ = prepared.operands;
    made_.n_tokens = static_cast<int>(n_tokens);
  }

  // Rows of experts: each slot of `groups` takes row slot / slots_per_row.
  Input(Session& session, const float* x, int64_t stride, const Groups& groups, int slots_per_row, int64_t n_cols)
      : Input(session, x, stride, groups.n_rows, n_cols) {
    slots_ = groups.slots;
    slots_per_row_ = slots_per_row;
  }

  void fill(Kind kind, Job& job) {
    job.n_cols = static_cast<int>(n_cols_);
    job.n_cells = static_cast<int>(cells_of(kind, n_cols_));
    job.rows = x_;
    job.row_stride = stride_;
    job.slots = slots_;
    job.slots_per_row = slots_per_row_;
    job.x.n_tokens = static_cast<int>(n_tokens_);
    const OperandType type = operand_of(kind);
    if (type == OperandType::none) return;
    if (!is_made_ || type != type_) {
      std::byte* codes = session_.scratch(Session::Purpose::codes, operand_code_bytes(type, n_tokens_, n_cols_));
      std::byte* numbers = session_.scratch(Session::Purpose::numbers, operand_number_bytes(type, n_tokens_, n_cols_));
      made_ = make_operands(type, x_, stride_, slots_, slots_per_row_, n_tokens_, n_cols_, codes, numbers,
                            session_.stream());
      type_ = type;
      is_made_ = true;
    }
    job.x = made_;
  }

 private:
  Session& session_;
  const float* x_;
  int64_t stride_, n_tokens_, n_cols_;
  const int32_t* slots_ = nullptr;
  int slots_per_row_ = 1;
  Operands made_;
  OperandType type_ = OperandType::int8;
  bool is_made_ = false;
};

}  // namespace

namespace {

Prepared prepared_in(const ops::Context& context) {
  return static_cast<Session*>(context.scratch)->take_prepared();
}

void multiply_all(Session& session, Input& input, std::span<const ops::Projection> projections) {
  std::vector<bool> is_done(projections.size());
  for (size_t first = 0; first < projections.size(); ++first) {
    if (is_done[first]) continue;
    // Everything of this kind whose rows are cut into as many slices goes along.
    const Kind kind = kind_of_matrix(*projections[first].weight);
    Job job;
    input.fill(kind, job);
    job.n_slices = slices_of(kind, projections[first].weight->n_rows, job.n_cols);
    for (size_t i = first; i < projections.size() && job.n_parts < kMostParts; ++i) {
      const ops::Projection& p = projections[i];
      const ops::Matrix& w = *p.weight;
      if (is_done[i] || kind_of_matrix(w) != kind || slices_of(kind, w.n_rows, w.n_cols) != job.n_slices) continue;
      const int pairs_before = job.n_parts > 0 ? job.parts[job.n_parts - 1].pair_end : 0;
      Part& part = job.parts[job.n_parts++];
      part.weight = reinterpret_cast<const uint8_t*>(w.data);
      part.bias = p.bias;
      part.out = p.out;
      part.out_stride = p.out_stride;
      part.n_rows = static_cast<int>(w.n_rows);
      part.pair_end = pairs_before + row_pairs(w.n_rows);
      part.activation = p.activation;
      part.accumulate = p.accumulate;
      part.scale = p.scale;
      set_table(w, 0, part);
      set_table(w, 1, part);
      is_done[i] = true;
    }
    run(kind, job, session.stream());
  }
}

}  // namespace

void linear(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
            std::span<const ops::Projection> projections) {
  if (runs.empty() || runs.back().end == 0 || projections.empty()) return;
  const Prepared prepared = prepared_in(context);
  Session& session = session_of(context);
  Input input(session, x, x_stride, runs.back().end, projections[0].weight->n_cols, prepared);
  multiply_all(session, input, projections);
}

void linear_glu(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::Matrix& gate, const float* gate_bias, const ops::Matrix& up, const float* up_bias,
                ops::Activation act, float* out, int64_t out_stride, const ops::Matrix* next) {
  if (runs.empty() || runs.back().end == 0) return;
  const Prepared prepared = prepared_in(context);
  Session& session = session_of(context);
  const Kind kind = kind_of_matrix(gate);
  const int64_t n_tokens = runs.back().end;
  Input input(session, x, x_stride, n_tokens, gate.n_cols, prepared);
  if (kind != kind_of_matrix(up) || kind == Kind::f32) {
    auto* gated = reinterpret_cast<float*>(
        session.scratch(Session::Purpose::gated, n_tokens * gate.n_rows * static_cast<int64_t>(sizeof(float))));
    const ops::Projection projections[] = {
        {.weight = &gate, .bias = gate_bias, .out = gated, .out_stride = gate.n_rows},
        {.weight = &up, .bias = up_bias, .out = out, .out_stride = out_stride},
    };
    multiply_all(session, input, std::span(projections));
    return glu(context, act, gated, gate.n_rows, out, out_stride, out, out_stride, n_tokens, gate.n_rows);
  }
  Job job;
  input.fill(kind, job);
  // A pair of row tiles is one of each matrix here, so that there are twice as many.
  job.n_slices = slices_of(kind, 2 * gate.n_rows, gate.n_cols);
  job.n_parts = 1;
  Part& part = job.parts[0];
  part.weight = reinterpret_cast<const uint8_t*>(gate.data);
  part.up = reinterpret_cast<const uint8_t*>(up.data);
  part.bias = gate_bias;
  part.up_bias = up_bias;
  part.out = out;
  part.out_stride = out_stride;
  part.n_rows = static_cast<int>(gate.n_rows);
  part.pair_end = static_cast<int>((gate.n_rows + 15) / 16);
  part.activation = act;
  set_table(gate, 0, part);
  set_table(up, 1, part);
  if (out_stride == gate.n_rows && rounds_output(job))
    job.rounded = session.prepare(next, out, n_tokens, gate.n_rows, true);
  run(kind, job, session.stream());
}

namespace {

// The f32 kernel takes one group at a time.
int tile_groups(const ops::Matrix& m) {
  return kind_of_matrix(m) == Kind::f32 ? 1 : 8;
}

// Each slot's row times the matrix of its expert: `part` tells the matrices, or a gated pair of them, of all experts.
void multiply_slots(Session& session, const ops::Matrix& stack, Input& input, const Groups& groups, Part part) {
  const Kind kind = kind_of_matrix(stack);
  Job job;
  input.fill(kind, job);
  const bool is_gated = part.up != nullptr;
  part.weight = reinterpret_cast<const uint8_t*>(stack.data);
  part.n_rows = static_cast<int>(stack.n_rows);
  part.pair_end = is_gated ? static_cast<int>((stack.n_rows + 15) / 16) : row_pairs(stack.n_rows);
  set_table(stack, 0, part);
  if (!is_gated) set_table(stack, 1, part);
  job.n_slices = slices_of(kind, is_gated ? 2 * stack.n_rows : stack.n_rows, job.n_cols);
  job.tiles = groups.tiles;
  job.n_tiles = groups.n_tiles;
  job.matrix_bytes = stack.matrix_bytes;
  job.n_parts = 1;
  job.parts[0] = part;
  run(kind, job, groups.groups_per_tile, groups.groups_per_tile > 1, session.stream());
}

}  // namespace

void expert_glu(const ops::Context& context, const float* x, int64_t x_stride, std::span<const ops::RowRun> runs,
                const ops::ExpertUnit& unit, const ops::Chosen& chosen, float* out) {
  if (runs.empty() || runs.back().end == 0) return;
  Session& session = session_of(context);
  const ops::Matrix &gate = *unit.gate, &up = *unit.up;
  const int64_t n_tokens = runs.back().end, n_slots = n_tokens * chosen.n_used;
  const Groups groups =
      group_slots(session, chosen, n_tokens, gate.n_matrices, std::min(tile_groups(gate), tile_groups(up)));
  Input input(session, x, x_stride, groups, chosen.n_used, gate.n_cols);
  Part part;
  part.bias = unit.gate_bias;
  part.out = out;
  part.out_stride = gate.n_rows;
  const Kind kind = kind_of_matrix(gate);
  if (kind == kind_of_matrix(up) && kind != Kind::f32) {
    part.up = reinterpret_cast<const uint8_t*>(up.data);
    part.up_bias = unit.up_bias;
    part.activation = unit.activation;
    part.limit = unit.limit;
    part.shift = unit.shift;
    set_table(up, 1, part);
    return multiply_slots(session, gate, input, groups, part);
  }
  auto* gated = reinterpret_cast<float*>(
      session.scratch(Session::Purpose::gated, n_slots * gate.n_rows * static_cast<int64_t>(sizeof(float))));
  part.out = gated;
  multiply_slots(session, gate, input, groups, part);
  part.out = out;
  part.bias = unit.up_bias;
  multiply_slots(session, up, input, groups, part);
  limited_glu(context, unit.activation, gated, out, unit.limit, unit.shift, out, n_slots * gate.n_rows);
}

void expert_sum(const ops::Context& context, const float* hidden, std::span<const ops::RowRun> runs,
                const ops::Matrix& down, const float* bias, const ops::Chosen& chosen, float scale, bool accumulate,
                float* out, int64_t out_stride) {
  if (runs.empty() || runs.back().end == 0) return;
  Session& session = session_of(context);
  const int64_t n_tokens = runs.back().end, n_slots = n_tokens * chosen.n_used;
  const Groups groups = group_slots(session, chosen, n_tokens, down.n_matrices, tile_groups(down));
  Input input(session, hidden, down.n_cols, groups, 1, down.n_cols);
  Part part;
  part.bias = bias;
  part.out = reinterpret_cast<float*>(
      session.scratch(Session::Purpose::gated, n_slots * down.n_rows * static_cast<int64_t>(sizeof(float))));
  part.out_stride = down.n_rows;
  multiply_slots(session, down, input, groups, part);
  add_up_slots(session, part.out, chosen, n_tokens, down.n_rows, scale, accumulate, out, out_stride);
}

}  // namespace halfbyte::cuda
