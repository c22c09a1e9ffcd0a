// _core.testing: one op at one CPU level on numpy arrays, for tests/kernels and bench/kernels.py.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/cpu_level.h"
#include "base/error.h"
#include "bindings/bind.h"
#include "engine/stop.h"
#include "formats/registry.h"
#include "ops/fused.h"
#include "ops/kv_layout.h"

namespace halfbyte::bindings {

const ops::Ops& ops_at_level(const std::string& level);  // cpu_entry.cpp
void register_testing_engine(py::module_& testing);      // bind_testing_engine.cpp

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// A pool and its scratch for the time of one call.
struct Run {
  const ops::Ops& ops;
  ThreadPool pool;
  ops::Context context;

  Run(const std::string& level, int n_threads) : ops(ops_at_level(level)), pool(n_threads) {
    context.pool = &pool;
    context.scratch = ops.create_scratch(pool);
  }
  ~Run() { ops.destroy_scratch(context.scratch); }

  Buffer upload(const Floats& values) const {
    const auto n_bytes = static_cast<size_t>(values.nbytes());
    Buffer buffer = ops.memory->allocate(n_bytes, "A test's operand");
    ops.memory->upload(buffer.data(), values.data(), n_bytes);
    return buffer;
  }
  Floats download(const Buffer& buffer, std::vector<py::ssize_t> shape) const {
    Floats out(std::move(shape));
    ops.memory->download(out.mutable_data(), buffer.data(), static_cast<size_t>(out.nbytes()));
    return out;
  }
  // Waits for a device to end what it was given; `out` is some result of it.
  void finish(const Buffer& out) const {
    float first = 0.0f;
    if (!ops.memory->is_host) ops.memory->download(&first, out.data(), sizeof first);
  }
  Buffer floats(py::ssize_t n) const {
    return ops.memory->allocate(static_cast<size_t>(n) * sizeof(float), "A test's result");
  }
};

ops::Matrix packed(Run& run, const std::string& format_name, const py::bytes& blocks, int64_t n_rows, int64_t n_cols,
                   bool keep_raw, int64_t n_matrices = 1) {
  const formats::Format* format = formats::find_format(format_name);
  require(format != nullptr, "There is no block format named %s.", format_name.c_str());
  const std::string_view bytes = blocks;
  ops::Matrix m =
      run.ops.pack({format, n_rows, n_cols, std::as_bytes(std::span(bytes)), n_matrices}, keep_raw, run.pool);
  if (run.ops.finish_packing != nullptr) run.ops.finish_packing();
  return m;
}

// Seconds of the fastest of n_repeats calls.
double fastest(int n_repeats, FunctionRef<void()> job) {
  double best = 1e30;
  for (int i = 0; i < n_repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    job();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// x (n_tokens, n_cols) times W^T; returns (n_tokens, n_rows), and the seconds of the fastest of n_repeats products.
py::tuple linear(const std::string& level, const std::string& format, const py::bytes& blocks, const Floats& x,
                 int n_threads, bool keep_raw, int n_repeats) {
  require(x.ndim() == 2, "x must have two axes.");
  Run run(level, n_threads);
  const formats::Format* f = formats::find_format(format);
  require(f != nullptr && x.shape(1) % f->block_weights == 0, "%s rows of %zd columns.", format.c_str(), x.shape(1));
  const int64_t n_rows = static_cast<int64_t>(std::string_view(blocks).size()) / f->row_bytes(x.shape(1));
  require(n_rows >= 1 && x.shape(0) >= 1, "%lld rows times %zd tokens.", static_cast<long long>(n_rows), x.shape(0));
  const ops::Matrix w = packed(run, format, blocks, n_rows, x.shape(1), keep_raw);
  const Buffer in = run.upload(x);
  Buffer out = run.floats(x.shape(0) * n_rows);
  const ops::Projection p[] = {{.weight = &w, .out = out.as<float>(), .out_stride = n_rows}};
  const ops::RowRun runs[] = {{0, x.shape(0), ops::Role::prefill}};
  double best = 0;
  {
    const py::gil_scoped_release release;
    best = fastest(n_repeats, [&] {
      run.ops.linear(run.context, in.as<float>(), x.shape(1), std::span<const ops::RowRun>(runs),
                     std::span<const ops::Projection>(p));
      run.finish(out);
    });
  }
  return py::make_tuple(run.download(out, {x.shape(0), n_rows}), best, w.bytes());
}

// A matrix (format, blocks) that multiplies an op's result, which the op is told of.
using Following = std::optional<std::pair<std::string, py::bytes>>;

// What a test's op leaves goes through the matrix, where there is one.
class Next {
 public:
  Next(Run& run, const Following& following, int64_t n_cols) : run_(run), n_cols_(n_cols) {
    if (!following) return;
    const formats::Format* f = formats::find_format(following->first);
    require(f != nullptr && n_cols % f->block_weights == 0, "%s rows of %lld columns.", following->first.c_str(),
            static_cast<long long>(n_cols));
    const int64_t n_rows = static_cast<int64_t>(std::string_view(following->second).size()) / f->row_bytes(n_cols);
    matrix_ = packed(run, following->first, following->second, n_rows, n_cols, false);
  }

  const ops::Matrix* matrix() const { return matrix_ ? &matrix_ : nullptr; }

  // Of `rows` (n, n_cols), which the op has just left; as they are, in `shape`, without a matrix.
  Floats finish(Buffer& rows, int64_t n, std::vector<py::ssize_t> shape) {
    if (!matrix_) return run_.download(rows, std::move(shape));
    Buffer out = run_.floats(n * matrix_.n_rows);
    const ops::Projection p[] = {{.weight = &matrix_, .out = out.as<float>(), .out_stride = matrix_.n_rows}};
    const ops::RowRun runs[] = {{0, n, ops::Role::decode}};
    run_.ops.linear(run_.context, rows.as<float>(), n_cols_, std::span<const ops::RowRun>(runs),
                    std::span<const ops::Projection>(p));
    return run_.download(out, {n, matrix_.n_rows});
  }

 private:
  Run& run_;
  int64_t n_cols_;
  ops::Matrix matrix_;
};

// act(x @ gate.T) * (x @ up.T); gate and up may be of different formats.
Floats linear_glu(const std::string& level, const std::string& gate_format, const py::bytes& gate_blocks,
                  const std::string& up_format, const py::bytes& up_blocks, const Floats& x, int activation,
                  const Following& following) {
  Run run(level, 1);
  const formats::Format* f = formats::find_format(gate_format);
  require(f != nullptr && x.shape(1) % f->block_weights == 0, "%s rows of %zd columns.", gate_format.c_str(),
          x.shape(1));
  const int64_t n_rows = static_cast<int64_t>(std::string_view(gate_blocks).size()) / f->row_bytes(x.shape(1));
  const ops::Matrix gate = packed(run, gate_format, gate_blocks, n_rows, x.shape(1), false);
  const ops::Matrix up = packed(run, up_format, up_blocks, n_rows, x.shape(1), false);
  Next next(run, following, n_rows);
  const Buffer in = run.upload(x);
  Buffer out = run.floats(x.shape(0) * n_rows);
  const ops::RowRun runs[] = {{0, x.shape(0), ops::Role::decode}};
  run.ops.linear_glu(run.context, in.as<float>(), x.shape(1), std::span<const ops::RowRun>(runs), gate, nullptr, up,
                     nullptr, static_cast<ops::Activation>(activation), out.as<float>(), n_rows, next.matrix());
  return next.finish(out, x.shape(0), {x.shape(0), n_rows});
}

// (experts, weights) of each row, both (n_tokens, n_used).
std::pair<Ints, Floats> route(const std::string& level, const Floats& logits, int n_used, bool is_sigmoid,
                              bool normalize, float scale, const std::optional<Floats>& bias, int n_groups,
                              int n_groups_used, const std::optional<Floats>& strengths) {
  Run run(level, 1);
  const py::ssize_t n_tokens = logits.shape(0), n_slots = n_tokens * n_used;
  for (const std::optional<Floats>* each : {&bias, &strengths}) {
    require(n_used >= 1 && n_used <= logits.shape(1) && (!*each || (*each)->size() == logits.shape(1)),
            "%d of %zd experts.", n_used, logits.shape(1));
  }
  const Buffer in = run.upload(logits), added = bias ? run.upload(*bias) : Buffer();
  const Buffer multiplied = strengths ? run.upload(*strengths) : Buffer();
  Buffer experts = run.floats(n_slots), weights = run.floats(n_slots);
  run.ops.route(run.context,
                {.gating = is_sigmoid ? ops::Gating::sigmoid : ops::Gating::softmax,
                 .n_experts = static_cast<int>(logits.shape(1)),
                 .n_used = n_used,
                 .normalize = normalize,
                 .scale = scale,
                 .bias = added.as<float>(),
                 .strengths = multiplied.as<float>(),
                 .n_groups = n_groups,
                 .n_groups_used = n_groups_used},
                in.as<float>(), n_tokens, experts.as<int32_t>(), weights.as<float>());
  Ints found(std::vector<py::ssize_t>{n_tokens, n_used});
  run.ops.memory->download(found.mutable_data(), experts.data(), static_cast<size_t>(found.nbytes()));
  return {found, run.download(weights, {n_tokens, n_used})};
}

// A whole expert MLP: (hidden (n_tokens, n_used, n_ff), sums (n_tokens, n_cols), fastest seconds). The three stacks are
// of one format, gate and up (n_experts, n_ff, n_cols), down (n_experts, n_cols, n_ff); biases (n_experts, rows).
py::tuple experts(const std::string& level, const std::string& format, const std::vector<py::bytes>& stacks,
                  int64_t n_ff, const Floats& x, const Ints& chosen, const Floats& weights,
                  const std::vector<Floats>& biases, int activation, float limit, float shift, int n_threads,
                  bool keep_raw, int n_repeats) {
  Run run(level, n_threads);
  const formats::Format* f = formats::find_format(format);
  const int64_t n_tokens = x.shape(0), n_cols = x.shape(1), n_used = chosen.shape(1);
  require(f != nullptr && n_cols % f->block_weights == 0 && n_ff % f->block_weights == 0 && stacks.size() == 3,
          "%s rows of %lld and %lld columns.", format.c_str(), static_cast<long long>(n_cols),
          static_cast<long long>(n_ff));
  const int64_t n_experts = static_cast<int64_t>(std::string_view(stacks[0]).size()) / (n_ff * f->row_bytes(n_cols));
  for (py::ssize_t i = 0; i < chosen.size(); ++i)
    require(chosen.data()[i] >= 0 && chosen.data()[i] < n_experts, "Expert %d of %lld.", chosen.data()[i],
            static_cast<long long>(n_experts));
  const ops::Matrix gate = packed(run, format, stacks[0], n_ff, n_cols, keep_raw, n_experts);
  const ops::Matrix up = packed(run, format, stacks[1], n_ff, n_cols, keep_raw, n_experts);
  const ops::Matrix down = packed(run, format, stacks[2], n_cols, n_ff, keep_raw, n_experts);
  std::vector<Buffer> added;
  for (const Floats& each : biases) added.push_back(run.upload(each));
  const auto bias = [&](size_t i) { return i < added.size() ? added[i].as<float>() : nullptr; };
  const Buffer in = run.upload(x), shares = run.upload(weights);
  Buffer ids = run.ops.memory->allocate(static_cast<size_t>(chosen.nbytes()), "A test's operand");
  run.ops.memory->upload(ids.data(), chosen.data(), static_cast<size_t>(chosen.nbytes()));
  Buffer hidden = run.floats(n_tokens * n_used * n_ff), out = run.floats(n_tokens * n_cols);
  const ops::Chosen which = {static_cast<int>(n_used), ids.as<int32_t>(), shares.as<float>()};
  const ops::ExpertUnit unit = {&gate, &up, bias(0), bias(1), static_cast<ops::Activation>(activation), limit, shift};
  const ops::RowRun runs[] = {{0, n_tokens, ops::Role::prefill}};
  double best = 0;
  {
    const py::gil_scoped_release release;
    best = fastest(n_repeats, [&] {
      run.ops.expert_glu(run.context, in.as<float>(), n_cols, std::span<const ops::RowRun>(runs), unit, which,
                         hidden.as<float>());
      run.ops.expert_sum(run.context, hidden.as<float>(), std::span<const ops::RowRun>(runs), down, bias(2), which,
                         1.0f, false, out.as<float>(), n_cols);
      run.finish(out);
    });
  }
  return py::make_tuple(run.download(hidden, {n_tokens, n_used, n_ff}), run.download(out, {n_tokens, n_cols}), best);
}

Floats norm(const std::string& level, bool layer, const Floats& x, const Floats& weight, float eps,
            const Following& following) {
  Run run(level, 1);
  Next next(run, following, x.shape(1));
  const Buffer in = run.upload(x), scale = run.upload(weight);
  Buffer out = run.floats(x.size());
  run.ops.norm(run.context, layer ? ops::NormKind::layer : ops::NormKind::rms, in.as<float>(), x.shape(1),
               out.as<float>(), x.shape(1), x.shape(0), x.shape(1), scale.as<float>(), nullptr, eps, next.matrix());
  return next.finish(out, x.shape(0), {x.shape(0), x.shape(1)});
}

Floats glu(const std::string& level, int activation, const Floats& gate, const Floats& up) {
  Run run(level, 1);
  const Buffer first = run.upload(gate), second = run.upload(up);
  Buffer out = run.floats(gate.size());
  run.ops.glu(run.context, static_cast<ops::Activation>(activation), first.as<float>(), gate.shape(1),
              second.as<float>(), gate.shape(1), out.as<float>(), gate.shape(1), gate.shape(0), gate.shape(1));
  return run.download(out, {gate.shape(0), gate.shape(1)});
}

// Rotates x (n_tokens, n_heads, head_dim) at the given positions.
Floats rope(const std::string& level, bool adjacent, const Floats& x, const Floats& inv_freq, const Ints& positions) {
  Run run(level, 1);
  Buffer rows = run.upload(x);
  const Buffer frequencies = run.upload(inv_freq);
  const ops::RopeArgs args = {adjacent ? ops::RopeKind::adjacent : ops::RopeKind::halves,
                              static_cast<int>(2 * inv_freq.size()), frequencies.as<float>(), 1.0f};
  run.ops.rope(run.context, args, rows.as<float>(), x.shape(1) * x.shape(2), x.shape(0), static_cast<int>(x.shape(1)),
               static_cast<int>(x.shape(2)), positions.data());
  return run.download(rows, {x.shape(0), x.shape(1), x.shape(2)});
}

// x (n_tokens, n_in, n) mixed by weights (n_tokens, n_out, n_in), or one row of them for all; added to `to`, or in x's
// place.
Floats mix(const std::string& level, const Floats& weights, const Floats& x, const std::optional<Floats>& to) {
  Run run(level, 3);
  Buffer in = run.upload(x), out = to ? run.upload(*to) : Buffer();
  const Buffer factors = run.upload(weights);
  const int64_t n_tokens = x.shape(0), n_in = x.shape(1), n_out = weights.shape(1), n = x.shape(2);
  Buffer& found = to ? out : in;
  run.ops.mix(run.context,
              {.weights = factors.as<float>(),
               .weight_stride = weights.shape(0) > 1 ? n_out * n_in : 0,
               .in = in.as<float>(),
               .in_stride = n_in * n,
               .n_in = static_cast<int>(n_in),
               .out = found.as<float>(),
               .out_stride = n_out * n,
               .n_out = static_cast<int>(n_out),
               .accumulate = to.has_value()},
              n_tokens, n);
  return run.download(found, {n_tokens, n_out, n});
}

// Rows of x as large as those of `like`.
Floats match_size(const std::string& level, const Floats& x, const Floats& like, float floor) {
  Run run(level, 3);
  Buffer rows = run.upload(x);
  const Buffer others = run.upload(like);
  run.ops.match_size(run.context, rows.as<float>(), x.shape(1), others.as<float>(), x.shape(1), x.shape(0), x.shape(1),
                     floor);
  return run.download(rows, {x.shape(0), x.shape(1)});
}

// What of the first n of each row of x is above the row's cut; the rest stays.
Floats cut(const std::string& level, const Floats& x, int64_t n, float deviations) {
  Run run(level, 3);
  Buffer rows = run.upload(x);
  run.ops.cut(run.context, rows.as<float>(), x.shape(1), x.shape(0), n, deviations);
  return run.download(rows, {x.shape(0), x.shape(1)});
}

// x + scale * norm(y), all (n_rows, dim).
Floats norm_add(const std::string& level, bool layer, const Floats& y, const Floats& x, const Floats& weight,
                float scale, float eps) {
  Run run(level, 1);
  Buffer branch = run.upload(y), stream = run.upload(x);
  const Buffer factors = run.upload(weight);
  ops::norm_add(run.ops, run.context, layer ? ops::NormKind::layer : ops::NormKind::rms, branch.as<float>(),
                stream.as<float>(), scale, x.shape(0), x.shape(1), factors.as<float>(), nullptr, eps);
  return run.download(stream, {x.shape(0), x.shape(1)});
}

// Norms heads (n_tokens, n_heads, dim) where there are weights, rotates them, and writes keys and values into `slots`
// of 16 * n_blocks: (the queries, the blocks' bytes, zero where nothing was written).
py::tuple store_heads(const std::string& level, const std::string& kv_type, const Floats& q, const Floats& k,
                      const Floats& v, const std::optional<Floats>& q_norm, const std::optional<Floats>& k_norm,
                      bool adjacent, const Floats& inv_freq, const Ints& positions, const std::vector<int64_t>& slots,
                      int64_t n_blocks) {
  ops::KvType type;
  require(ops::parse_kv_type(kv_type, type), "There is no KV type %s.", kv_type.c_str());
  for (const int64_t slot : slots) require(slot < 16 * n_blocks, "Slot %lld.", static_cast<long long>(slot));
  Run run(level, 1);
  Buffer queries = run.upload(q), keys = run.upload(k);
  const Buffer values = run.upload(v), frequencies = run.upload(inv_freq);
  const Buffer q_factors = q_norm ? run.upload(*q_norm) : Buffer(), k_factors = k_norm ? run.upload(*k_norm) : Buffer();
  const auto n_heads = static_cast<int>(q.shape(1)), n_kv_heads = static_cast<int>(k.shape(1));
  const ops::KvLayout layout = {type, type, n_kv_heads, static_cast<int>(k.shape(2)), static_cast<int>(v.shape(2))};
  py::array_t<uint8_t> blocks(n_blocks * layout.block_bytes());
  std::memset(blocks.mutable_data(), 0, static_cast<size_t>(blocks.nbytes()));
  Buffer kv = run.ops.memory->allocate(static_cast<size_t>(blocks.nbytes()), "A test's KV cache");
  run.ops.memory->upload(kv.data(), blocks.data(), kv.size());
  ops::store_heads(run.ops, run.context,
                   {.query = {queries.as<float>(), q.shape(1) * q.shape(2), n_heads, q_factors.as<float>(), nullptr},
                    .key = {keys.as<float>(), k.shape(1) * k.shape(2), n_kv_heads, k_factors.as<float>(), nullptr},
                    .value = values.as<float>(),
                    .value_stride = v.shape(1) * v.shape(2),
                    .n_tokens = q.shape(0),
                    .norm = ops::NormKind::rms,
                    .norm_eps = 1e-5f,
                    .rope = {adjacent ? ops::RopeKind::adjacent : ops::RopeKind::halves,
                             static_cast<int>(2 * inv_freq.size()), frequencies.as<float>(), 1.0f},
                    .positions = positions.data(),
                    .layout = layout,
                    .kv = kv.data(),
                    .slots = slots.data()});
  run.ops.memory->download(blocks.mutable_data(), kv.data(), kv.size());
  return py::make_tuple(run.download(queries, {q.shape(0), q.shape(1), q.shape(2)}), blocks);
}

// The n most likely tokens of each row: (tokens, logits), both (n_rows, n).
std::pair<Ints, Floats> likely(const std::string& level, const Floats& logits, int n) {
  Run run(level, 1);
  require(n >= 1 && n <= ops::kMostLikely, "%d most likely tokens.", n);
  const Buffer in = run.upload(logits);
  std::vector<ops::Likely> found(static_cast<size_t>(logits.shape(0) * n));
  Buffer out = run.ops.memory->allocate(found.size() * sizeof(ops::Likely), "A test's result");
  run.ops.likely(run.context, in.as<float>(), logits.shape(0), logits.shape(1), n, out.as<ops::Likely>());
  run.ops.memory->download(found.data(), out.data(), out.size());
  Ints tokens(std::vector<py::ssize_t>{logits.shape(0), n});
  Floats values(std::vector<py::ssize_t>{logits.shape(0), n});
  for (size_t i = 0; i < found.size(); ++i) {
    tokens.mutable_data()[i] = found[i].token;
    values.mutable_data()[i] = found[i].logit;
  }
  return {tokens, values};
}

// Stores k, v (n_kv, n_kv_heads, dim) at positions 0.. of a sequence whose blocks are `table`, then runs queries
// (n_rows, n_heads, dim) at first_position.. over them. gap: bytes between the blocks.
py::tuple attention(const std::string& level, const std::string& kv_type, const Floats& q, const Floats& k,
                    const Floats& v, const Ints& table, int64_t first_position, float scale, float softcap,
                    int64_t window, const std::optional<Floats>& sinks, int n_threads, int n_repeats, bool is_decode,
                    const Following& following, int64_t gap) {
  ops::KvType type;
  require(ops::parse_kv_type(kv_type, type), "There is no KV type %s.", kv_type.c_str());
  Run run(level, n_threads);
  ops::KvLayout layout = {type, type, static_cast<int>(k.shape(1)), static_cast<int>(k.shape(2)),
                          static_cast<int>(v.shape(2))};
  layout.block_stride = layout.block_bytes() + gap;
  int32_t n_blocks = 0;
  std::vector<int64_t> slots;
  for (py::ssize_t i = 0; i < table.size(); ++i) n_blocks = std::max(n_blocks, table.data()[i] + 1);
  for (py::ssize_t p = 0; p < k.shape(0); ++p) slots.push_back(int64_t{table.data()[p / 16]} * 16 + p % 16);
  Buffer kv = run.ops.memory->allocate(static_cast<size_t>(n_blocks * layout.stride()), "A test's KV cache");
  if (run.ops.memory->is_host) std::memset(kv.data(), 0, kv.size());
  const Buffer keys = run.upload(k), values = run.upload(v), queries = run.upload(q);
  run.ops.store_kv(run.context, layout, kv.data(), keys.as<float>(), k.shape(1) * k.shape(2), values.as<float>(),
                   v.shape(1) * v.shape(2), k.shape(0), slots.data());
  Next next(run, following, q.shape(1) * v.shape(2));
  Buffer out = run.floats(q.shape(0) * q.shape(1) * v.shape(2));
  const Buffer sink_logits = sinks ? run.upload(*sinks) : Buffer();
  const ops::AttentionSpan span = {0, q.shape(0), first_position, is_decode ? ops::Role::decode : ops::Role::prefill,
                                   table.data()};
  const ops::AttentionArgs args = {.query = queries.as<float>(),
                                   .query_stride = q.shape(1) * q.shape(2),
                                   .out = out.as<float>(),
                                   .out_stride = q.shape(1) * v.shape(2),
                                   .kv = kv.data(),
                                   .layout = layout,
                                   .n_heads = static_cast<int>(q.shape(1)),
                                   .scale = scale,
                                   .softcap = softcap,
                                   .window = window,
                                   .sinks = sink_logits.as<float>(),
                                   .spans = std::span(&span, 1),
                                   .next = next.matrix()};
  const py::gil_scoped_release release;
  const double best = fastest(n_repeats, [&] {
    run.ops.attention(run.context, args);
    run.finish(out);
  });
  const py::gil_scoped_acquire gil;
  return py::make_tuple(next.finish(out, q.shape(0), {q.shape(0), q.shape(1), v.shape(2)}), best);
}

}  // namespace

void register_testing(py::module_& m) {
  py::module_ t =
      m.def_submodule("testing", "One op at one CPU level on numpy arrays. For tests and micro-benchmarks.");
  t.def("linear", &linear, py::arg("level"), py::arg("format"), py::arg("blocks"), py::arg("x"),
        py::arg("n_threads") = 1, py::arg("keep_raw") = false, py::arg("n_repeats") = 1,
        "(x @ W.T, fastest seconds, bytes of W as packed)");
  t.def("route", &route, py::arg("level"), py::arg("logits"), py::arg("n_used"), py::arg("is_sigmoid") = false,
        py::arg("normalize") = true, py::arg("scale") = 1.0f, py::arg("bias") = py::none(), py::arg("n_groups") = 1,
        py::arg("n_groups_used") = 1, py::arg("strengths") = py::none(), "(experts, weights) of each row");
  t.def("experts", &experts, py::arg("level"), py::arg("format"), py::arg("stacks"), py::arg("n_ff"), py::arg("x"),
        py::arg("chosen"), py::arg("weights"), py::arg("biases") = std::vector<Floats>{}, py::arg("activation") = 1,
        py::arg("limit") = 0.0f, py::arg("shift") = 0.0f, py::arg("n_threads") = 1, py::arg("keep_raw") = false,
        py::arg("n_repeats") = 1, "(hidden rows, sums, fastest seconds)");
  t.def("norm", &norm, py::arg("level"), py::arg("layer"), py::arg("x"), py::arg("weight"), py::arg("eps"),
        py::arg("following") = py::none(), "following: (format, blocks) of a matrix that multiplies the result next.");
  t.def("glu", &glu, py::arg("level"), py::arg("activation"), py::arg("gate"), py::arg("up"));
  t.def("attention", &attention, py::arg("level"), py::arg("kv_type"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("table"), py::arg("first_position"), py::arg("scale"), py::arg("softcap") = 0.0f, py::arg("window") = 0,
        py::arg("sinks") = py::none(), py::arg("n_threads") = 1, py::arg("n_repeats") = 1, py::arg("is_decode") = false,
        py::arg("following") = py::none(), py::arg("gap") = 0, "(attended values, fastest seconds)");
  t.def("linear_glu", &linear_glu, py::arg("level"), py::arg("gate_format"), py::arg("gate_blocks"),
        py::arg("up_format"), py::arg("up_blocks"), py::arg("x"), py::arg("activation"),
        py::arg("following") = py::none());
  t.def("rope", &rope, py::arg("level"), py::arg("adjacent"), py::arg("x"), py::arg("inv_freq"), py::arg("positions"));
  t.def("mix", &mix, py::arg("level"), py::arg("weights"), py::arg("x"), py::arg("to") = py::none());
  t.def("match_size", &match_size, py::arg("level"), py::arg("x"), py::arg("like"), py::arg("floor"));
  t.def("cut", &cut, py::arg("level"), py::arg("x"), py::arg("n"), py::arg("deviations"));
  t.def("norm_add", &norm_add, py::arg("level"), py::arg("layer"), py::arg("y"), py::arg("x"), py::arg("weight"),
        py::arg("scale"), py::arg("eps"));
  t.def("store_heads", &store_heads, py::arg("level"), py::arg("kv_type"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("q_norm"), py::arg("k_norm"), py::arg("adjacent"), py::arg("inv_freq"), py::arg("positions"),
        py::arg("slots"), py::arg("n_blocks"), "(queries, bytes of the KV blocks)");
  t.def("likely", &likely, py::arg("level"), py::arg("logits"), py::arg("n"), "(tokens, logits), best first");
  t.def("open_gpu_library", &open_device_library, py::arg("path"),
        "Takes the GPU backend from another file from now on; an empty path: from the installed one.");
  t.def(
      "set_cpu_level",
      [](const std::string& level) {
        for (const CpuLevel each : supported_cpu_levels()) {
          if (cpu_level_name(each) == level) return set_cpu_level_limit(each);
        }
        throw Error(ErrorKind::invalid_argument, "This machine has no CPU level " + level + ".");
      },
      py::arg("level"), "Models loaded from now on use this level.");
  register_testing_engine(t);
  py::class_<engine::StopMatcher>(t, "StopMatcher")
      .def(py::init([](const std::vector<py::bytes>& stops, bool include) {
             std::vector<std::string> strings;
             for (const py::bytes& stop : stops) strings.emplace_back(std::string_view(stop));
             return engine::StopMatcher(std::move(strings), include);
           }),
           py::arg("stops"), py::arg("include_stop"))
      .def("feed", [](engine::StopMatcher& s, const py::bytes& b) { return py::bytes(s.feed(std::string_view(b))); })
      .def("flush", [](engine::StopMatcher& s) { return py::bytes(s.flush()); })
      .def_property_readonly("match", [](const engine::StopMatcher& s) -> py::object {
        return s.has_matched() ? py::object(py::bytes(s.match())) : py::none();
      });
}

}  // namespace halfbyte::bindings
