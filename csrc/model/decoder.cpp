// Checks and plans a batch, and passes it through the stages.
#include "model/decoder.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "cache/block_tables.h"
#include "model/rope_tables.h"
#include "model/stage.h"

namespace halfbyte::model {

namespace {

// Whether all of a model's layers and experts are where steps are recorded and replayed.
bool repeats_steps(const Weights& weights) {
  return weights.expert_ops == weights.layer_ops &&
         std::all_of(weights.layer_ops.begin(), weights.layer_ops.end(),
                     [](const ops::Ops* ops) { return ops->begin_step != nullptr; });
}

// Steps that only decode, one row a sequence and each for its logits, do the same again and again.
bool repeats(const Batch& batch) {
  return batch.hidden_rows.empty() && batch.logit_rows.size() == batch.tokens.size() &&
         std::all_of(batch.sequences.begin(), batch.sequences.end(), [](const SequenceRows& s) {
           return s.role == ops::Role::decode && s.n_rows == 1 && s.adapters == nullptr;
         });
}

// The numbers of rows that such steps have: 1, 2, 4, 8, then four for each doubling, but multiples of 8.
int64_t padded_rows(int64_t n) {
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
  if (power <= 8) return power;
  const int64_t step = std::max<int64_t>(8, power / 8);
  return (n + step - 1) / step * step;
}

LastPlan last_plan(const StepPlan& whole) {
  LastPlan last;
  std::vector<int32_t>& rows = last.rows;
  rows = whole.picked;
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  // A part of a prompt has no output; one row spares all ops the case of none.
  if (rows.empty()) rows.push_back(static_cast<int32_t>(whole.runs.back().end - 1));
  const auto place = [&](int64_t row) { return std::lower_bound(rows.begin(), rows.end(), row) - rows.begin(); };
  const auto kept = [&](const ops::RowRun& run) { return ops::RowRun{place(run.begin), place(run.end), run.role}; };
  for (const ops::RowRun& run : whole.runs) {
    if (kept(run).begin < kept(run).end) last.plan.runs.push_back(kept(run));
  }
  for (const StepPlan::Part& part : whole.parts) {
    if (kept(part.rows).begin < kept(part.rows).end) last.plan.parts.push_back({kept(part.rows), part.adapters});
  }
  for (const ops::AttentionSpan& span : whole.spans) {
    const int64_t begin = place(span.first_row), end = place(span.first_row + span.n_rows);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = rows[static_cast<size_t>(at)];
      if (at > begin && row == rows[static_cast<size_t>(at - 1)] + 1)
        ++last.plan.spans.back().n_rows;
      else
        last.plan.spans.push_back({at, 1, span.first_position + row - span.first_row, span.role, span.block_table});
    }
  }
  for (const int32_t row : whole.picked) last.plan.picked.push_back(static_cast<int32_t>(place(row)));
  last.plan.logit_runs = whole.logit_runs;
  return last;
}

}  // namespace

struct Decoder::State {
  std::shared_ptr<const Weights> weights;
  ThreadPool pool;
  int64_t max_rows, max_logit_rows;
  std::vector<RopeTable> ropes;  // the different ones; layers share them
  std::vector<size_t> rope_of;   // per layer, its index in ropes
  KvGroups groups;
  std::vector<std::unique_ptr<Stage>> stages;
  bool repeats_steps;  // every stage's backend does
  StepPlan step;
  Batch padded;
  const std::vector<std::vector<int32_t>> no_blocks;  // of each group of layers: a block table that names none
  LastPlan last;

  State(std::shared_ptr<const Weights> w, int n_threads, int64_t rows, int64_t logit_rows, int64_t n_ctx)
      : weights(std::move(w)),
        pool(n_threads > 0 ? n_threads : usable_cores()),
        max_rows(rows),
        max_logit_rows(logit_rows),
        groups(model::kv_groups(*weights)),
        repeats_steps(model::repeats_steps(*weights)),
        no_blocks(static_cast<size_t>(groups.n_groups()), std::vector<int32_t>{-1}) {
    require(rows >= 1 && logit_rows >= 1, "A decoder for %lld rows and %lld logit rows.", static_cast<long long>(rows),
            static_cast<long long>(logit_rows));
    const Config& c = weights->config;
    if (n_ctx <= 0) n_ctx = c.n_ctx_train;
    for (const LayerConfig& layer : c.layers) {
      RopeTable table = rope_table(*weights, layer, n_ctx);
      const auto same =
          std::find_if(ropes.begin(), ropes.end(), [&](const RopeTable& known) { return known == table; });
      rope_of.push_back(static_cast<size_t>(same - ropes.begin()));
      if (same == ropes.end()) ropes.push_back(std::move(table));
    }
    const std::vector<const ops::Ops*>& backends = weights->layer_ops;
    for (size_t begin = 0, end = 0; begin < backends.size(); begin = end) {
      while (end < backends.size() && backends[end] == backends[begin]) ++end;
      stages.push_back(std::make_unique<Stage>(*weights, *backends[begin], pool, static_cast<int64_t>(begin),
                                               static_cast<int64_t>(end), StepLimits{rows, logit_rows, n_ctx}, ropes,
                                               rope_of, groups));
    }
  }

  void check(const Batch& batch, const cache::KvStore& kv) const;
  void plan(const Batch& batch);
  const Batch& with_padding(const Batch& batch);
  StepOutput run(const Batch& batch, cache::KvStore& kv, const bool* cancelled);
};

void Decoder::State::check(const Batch& batch, const cache::KvStore& kv) const {
  const Config& c = weights->config;
  const int64_t n = batch.n_rows();
  require(n >= 1 && n <= max_rows, "A batch of %lld rows; 1 to %lld are allowed.", static_cast<long long>(n),
          static_cast<long long>(max_rows));
  require(batch.positions.size() == batch.tokens.size(), "A batch with %zu tokens and %zu positions.",
          batch.tokens.size(), batch.positions.size());
  require(static_cast<int64_t>(batch.logit_rows.size()) <= max_logit_rows, "%zu logit rows; at most %lld are allowed.",
          batch.logit_rows.size(), static_cast<long long>(max_logit_rows));
  require(kv.n_layers() == c.n_layers, "A KV cache of %d layers for a model of %lld.", kv.n_layers(),
          static_cast<long long>(c.n_layers));
  for (const int32_t token : batch.tokens) {
    require(token >= 0 && token < c.n_vocab, "Token id %d is outside the vocabulary of %lld.", token,
            static_cast<long long>(c.n_vocab));
  }
  for (const std::vector<int32_t>* rows : {&batch.logit_rows, &batch.hidden_rows}) {
    for (const int32_t row : *rows)
      require(row >= 0 && row < n, "Output of row %d of %lld.", row, static_cast<long long>(n));
  }
  require(batch.n_likely >= 0 && batch.n_likely <= ops::kMostLikely, "%d most likely tokens of a row; at most %d.",
          batch.n_likely, ops::kMostLikely);
  require(batch.logit_rows.size() + batch.hidden_rows.size() <= static_cast<size_t>(max_rows),
          "More outputs were asked for than there are rows.");
  int64_t next = 0;
  for (const SequenceRows& s : batch.sequences) {
    const int64_t last = s.first_position + s.n_rows - 1;
    require(s.first_row == next && s.n_rows >= 1 && s.first_position >= 0 && next + s.n_rows <= n,
            "A batch's sequences must cover its rows in order.");
    require(static_cast<int64_t>(s.block_tables.size()) == groups.n_groups(),
            "A sequence with %zu block tables; the layers make %lld groups.", s.block_tables.size(),
            static_cast<long long>(groups.n_groups()));
    require(c.positions != PositionKind::learned || last < c.n_ctx_train,
            "Position %lld is past the model's %lld learned positions.", static_cast<long long>(last),
            static_cast<long long>(c.n_ctx_train));
    for (size_t g = 0; g < s.block_tables.size(); ++g) {
      const std::vector<int32_t>& table = s.block_tables[g];
      require(last / ops::kKvBlockTokens < static_cast<int64_t>(table.size()), "Position %lld has no KV block.",
              static_cast<long long>(last));
      for (auto i = cache::first_seen_block(s.first_position, groups.windows[g]); i <= last / ops::kKvBlockTokens;
           ++i) {
        const int32_t block = table[static_cast<size_t>(i)];
        require(block >= 0 && block < kv.n_blocks(), "KV block %d of %d.", block, kv.n_blocks());
      }
    }
    for (int64_t i = 0; i < s.n_rows; ++i) {
      require(batch.positions[static_cast<size_t>(next + i)] == s.first_position + i,
              "A sequence's positions must be consecutive.");
    }
    next += s.n_rows;
  }
  require(next == n, "A batch's sequences cover %lld of its %lld rows.", static_cast<long long>(next),
          static_cast<long long>(n));
}

// Slots, row runs and attention spans of the batch.
void Decoder::State::plan(const Batch& batch) {
  auto& [slots, runs, logit_runs, picked, spans, parts, is_repeated] = step;
  is_repeated = repeats(batch);
  slots.clear();
  runs.clear();
  spans.clear();
  parts.clear();
  for (size_t g = 0; g < groups.windows.size(); ++g) {
    for (const SequenceRows& s : batch.sequences) {
      const std::vector<int32_t>& table = s.block_tables[g];
      for (int64_t p = s.first_position; p < s.first_position + s.n_rows; ++p) {
        const int64_t block = table[static_cast<size_t>(p / ops::kKvBlockTokens)];
        slots.push_back(block < 0 ? -1 : block * ops::kKvBlockTokens + p % ops::kKvBlockTokens);
      }
      spans.push_back({s.first_row, s.n_rows, s.first_position, s.role, table.data()});
    }
  }
  for (const SequenceRows& s : batch.sequences) {
    if (!runs.empty() && runs.back().role == s.role)
      runs.back().end += s.n_rows;
    else
      runs.push_back({s.first_row, s.first_row + s.n_rows, s.role});
  }
  const bool is_adapted = std::any_of(batch.sequences.begin(), batch.sequences.end(),
                                      [](const SequenceRows& s) { return s.adapters != nullptr; });
  for (const SequenceRows& s : batch.sequences) {
    if (!is_adapted) break;
    if (!parts.empty() && parts.back().adapters == s.adapters && parts.back().rows.role == s.role)
      parts.back().rows.end += s.n_rows;
    else
      parts.push_back({{s.first_row, s.first_row + s.n_rows, s.role}, s.adapters});
  }
  picked = batch.logit_rows;
  picked.insert(picked.end(), batch.hidden_rows.begin(), batch.hidden_rows.end());
  logit_runs.clear();
  for (const int32_t row : batch.logit_rows) {
    const int64_t at = logit_runs.empty() ? 0 : logit_runs.back().end;
    ops::Role role = ops::Role::prefill;
    for (const ops::RowRun& run : runs) {
      if (row >= run.begin && row < run.end) role = run.role;
    }
    if (!logit_runs.empty() && logit_runs.back().role == role)
      ++logit_runs.back().end;
    else
      logit_runs.push_back({at, at + 1, role});
  }
}

// The batch, or where it will be repeated with other numbers of rows, one of the few sizes that are recorded: the rows
// behind its own see nothing and write nothing that stays.
const Batch& Decoder::State::with_padding(const Batch& batch) {
  const int64_t n = batch.n_rows();
  const int64_t n_padded = std::min({padded_rows(n), max_rows, max_logit_rows});
  if (!repeats_steps || !repeats(batch) || n_padded <= n) return batch;
  padded = batch;
  for (int64_t row = n; row < n_padded; ++row) {
    padded.add_rows(std::span(batch.tokens).first(1), 0, ops::Role::decode, no_blocks);
    want_last(padded, 1, padded.logit_rows);
  }
  return padded;
}

StepOutput Decoder::State::run(const Batch& asked, cache::KvStore& kv, const bool* cancelled) {
  check(asked, kv);
  const Batch& batch = with_padding(asked);
  plan(batch);
  // A batch of decoded rows asks of all.
  const bool asks_of_all =
      batch.logit_rows.size() == batch.tokens.size() || batch.hidden_rows.size() == batch.tokens.size();
  if (!asks_of_all) last = last_plan(step);
  stages.front()->embed(batch, step);
  for (size_t i = 0; i < stages.size(); ++i) {
    if (i > 0) stages[i]->take_stream(*stages[i - 1], batch.n_rows());
    stages[i]->run(batch, step, asks_of_all ? nullptr : &last, kv, i + 1 == stages.size(), cancelled);
  }
  return stages.back()->output(asked);
}

Decoder::Decoder(std::shared_ptr<const Weights> weights, int n_threads, int64_t max_rows, int64_t max_logit_rows,
                 int64_t n_ctx)
    : state_(std::make_unique<State>(std::move(weights), n_threads, max_rows, max_logit_rows, n_ctx)) {}

Decoder::~Decoder() = default;

const Config& Decoder::config() const {
  return state_->weights->config;
}

const KvGroups& Decoder::kv_groups() const {
  return state_->groups;
}

cache::KvStore Decoder::make_kv(ops::KvType k_type, ops::KvType v_type, int32_t n_blocks) const {
  const auto quantized = [](ops::KvType type) { return type == ops::KvType::q8_0 || type == ops::KvType::q4_0; };
  for (const LayerConfig& shape : config().layers) {
    require(
        (!quantized(k_type) || shape.key_dim % 32 == 0) && (!quantized(v_type) || shape.value_dim % 32 == 0),
        "A quantized KV type needs a head_dim that is a multiple of 32; this model's is %d. Choose f16, bf16 or f32.",
        shape.key_dim);
  }
  return cache::KvStore(kv_layers(*state_->weights, kv_groups(), k_type, v_type), n_blocks);
}

void Decoder::set_observer(LinearObserver* observer) {
  for (const std::unique_ptr<Stage>& stage : state_->stages) stage->set_observer(observer);
}

StepOutput Decoder::forward(const Batch& batch, cache::KvStore& kv, const bool* cancelled) {
  return state_->run(batch, kv, cancelled);
}

std::span<float> Decoder::logits(int64_t first_row, int64_t n) {
  return state_->stages.back()->logits(first_row, n);
}

}  // namespace halfbyte::model
