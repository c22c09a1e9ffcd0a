// A step: plan rows, run them, draw tokens from their logits, tell the mailboxes.
#include "engine/runner.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <functional>
#include <new>
#include <set>
#include <utility>

#include "base/error.h"
#include "engine/batch.h"

namespace halfbyte::engine {

namespace {

using Clock = std::chrono::steady_clock;

// Prompt rows alone in a step: so few that whoever comes next need not wait longer than this, if the model can.
constexpr double kLongestPromptStep = 1.0;
constexpr int64_t kFewestPromptRows = 128;
// A step waits for masks so long after the model, or as long as the model took: streams keep at least half their pace.
constexpr std::chrono::milliseconds kMaskPatience(4);
// Callers' wishes are looked at so often while there is nothing to do but to wait for masks.
constexpr std::chrono::milliseconds kMaskWait(20);

}  // namespace

Runner::Runner(std::shared_ptr<const model::Weights> weights, std::shared_ptr<const model::Weights> draft,
               const EngineOptions& options)
    : options_(options),
      weights_(std::move(weights)),
      decoder_(weights_, options.n_threads, options.n_batch, options.max_sequences + kForwardChunk, options.n_ctx),
      kv_(decoder_.make_kv(options.k_type, options.v_type, n_kv_blocks(options, decoder_.kv_groups()))),
      pool_(kv_.n_blocks()),
      scheduler_(pool_, {.n_batch = options.n_batch,
                         .max_sequences = options.max_sequences,
                         .max_logit_rows = options.max_sequences + kForwardChunk,
                         .prefix_cache = options.prefix_cache,
                         .windows = decoder_.kv_groups().windows}),
      speculator_(std::move(draft), weights_->config, options) {}

void Runner::post(const Active& a, Event event) {
  event.request_id = a.id;
  event.dropped = a.dropped;
  if (!a.pass) outbox_.emplace_back(a.mailbox, std::move(event));
}

// Hands the news over, one call for each mailbox.
void Runner::deliver() {
  std::stable_sort(outbox_.begin(), outbox_.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
  for (auto first = outbox_.begin(); first != outbox_.end();) {
    const auto last = std::find_if(first, outbox_.end(), [&](const auto& each) { return each.first != first->first; });
    std::vector<Event> events;
    for (auto each = first; each != last; ++each) events.push_back(std::move(each->second));
    first->first->post(std::move(events));
    first = last;
  }
  outbox_.clear();
}

void Runner::add(std::unique_ptr<Active> active) {
  const uint64_t id = active->id;
  const Request& r = active->answer.request();
  scheduler_.add(id, {.prompt = r.prompt,
                      .priority = r.priority,
                      .client = std::hash<std::string>{}(r.client),
                      .variant = r.adapters != nullptr ? r.adapters->id : 0,
                      .every_row = active->pass != nullptr,
                      .every_logit = active->pass ? active->pass->output() != ForwardOutput::hidden : r.prompt_logprobs,
                      .no_logits = active->pass && active->pass->output() == ForwardOutput::hidden,
                      .is_passing = active->pass != nullptr});
  if (r.beam_width > 1) {
    const int64_t n_room = options_.n_ctx + 1 - static_cast<int64_t>(r.prompt.size());
    active->beams.emplace(r, r.max_tokens < 0 ? n_room : std::min(r.max_tokens, n_room), options_.token_bytes);
    active->beams->start(id);
  }
  active_.emplace(id, std::move(active));
}

// The request that a planned sequence belongs to.
Active& Runner::owner(uint64_t sequence) {
  const auto beam = beam_owners_.find(sequence);
  return *active_.at(beam != beam_owners_.end() ? beam->second : sequence);
}

void Runner::finish(Active& a, Event event) {
  scheduler_.finish(a.id);
  late_.erase(a.id);
  if (a.beams) {
    for (const BeamSearch::Beam& beam : a.beams->beams()) forget_beam(beam.sequence);
  }
  speculator_.finish(a.id);
  post(a, std::move(event));
  active_.erase(a.id);
}

void Runner::forget_beam(uint64_t sequence) {
  scheduler_.finish(sequence);
  late_.erase(sequence);
  beam_owners_.erase(sequence);
}

void Runner::fail(Active& a, const std::exception& error, Event event) {
  const auto* known = dynamic_cast<const Error*>(&error);
  a.answer.end(FinishReason::error, event);
  event.error = error.what();
  const bool lacks_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  const ErrorKind unnamed = lacks_memory ? ErrorKind::out_of_memory : ErrorKind::invalid_argument;
  event.error_kind = static_cast<int>(known != nullptr ? known->kind() : unnamed);
  if (a.pass) a.pass->fail(std::make_exception_ptr(known != nullptr ? *known : Error(unnamed, error.what())));
  finish(a, std::move(event));
}

void Runner::cancel(uint64_t id) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  Event event;
  found->second->answer.end(FinishReason::cancelled, event);
  if (found->second->pass)
    found->second->pass->fail(std::make_exception_ptr(Error(ErrorKind::cancelled, "The computation was stopped.")));
  finish(*found->second, std::move(event));
}

void Runner::cancel_all() {
  while (!active_.empty()) cancel(active_.begin()->first);
}

void Runner::fail_all(const std::exception& error) {
  while (!active_.empty()) fail(*active_.begin()->second, error);
}

std::vector<PlannedRows> Runner::plan() {
  const int64_t n_streams = scheduler_.n_streaming();
  propose(n_streams);
  return scheduler_.plan(n_streams > 0 ? cost_.prompt_rows_beside(n_streams, options_.n_batch)
                                       : std::max(std::min(options_.n_batch, kFewestPromptRows),
                                                  cost_.prompt_rows_within(kLongestPromptStep, options_.n_batch)));
}

// Gives streams the drafts that pay, and has masks computed while the model runs.
void Runner::propose(int64_t n_streams) {
  std::vector<DraftSlot> slots;
  for (const auto& [id, a] : active_) {
    if (a->beams || a->pass || !scheduler_.is_streaming(id) || scheduler_.n_drafts(id) > 0) continue;
    const auto n_tokens = static_cast<int64_t>(scheduler_.tokens(id).size());
    const int64_t most = std::min(a->answer.n_left(), options_.n_ctx - n_tokens) - 1;
    if (most > 0) slots.push_back({id, most, {}});
  }
  speculator_.propose(slots, n_streams, cost_);
  for (const DraftSlot& slot : slots) scheduler_.draft(slot.id, slot.drafts);
  for (const auto& [id, a] : active_) {
    if (a->beams)
      a->beams->prepare_masks(masks_);
    else if (!a->answer.is_checked())
      a->answer.prepare_masks(masks_, scheduler_.tokens(id).last(static_cast<size_t>(scheduler_.n_drafts(id))));
  }
}

void Runner::step(FunctionRef<void(std::vector<uint64_t>)> planned, const bool* stop) {
  take_late();
  const std::vector<PlannedRows> rows_of_step = plan();
  if (rows_of_step.empty()) {
    if (!late_.empty()) {
      masks_.wait(
          [&] { return std::any_of(late_.begin(), late_.end(), [&](auto& each) { return has_mask(each.first); }); },
          Clock::now() + kMaskWait);
      return;
    }
    // Cannot happen while every request fits the pool alone; refuse rather than spin.
    if (!active_.empty())
      fail(*active_.begin()->second, Error(ErrorKind::out_of_memory, "The KV cache has no room for this request."));
    return;
  }
  std::vector<uint64_t> ids;
  for (const PlannedRows& rows : rows_of_step) ids.push_back(owner(rows.id).id);
  planned(std::move(ids));

  const Clock::time_point start = Clock::now();
  model::StepOutput output;
  try {
    output = decoder_.forward(batch_of(rows_of_step), kv_, stop);
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    // Stopped: the rows are planned again, or their requests cancelled.
    if (known != nullptr && known->kind() == ErrorKind::cancelled) return;
    std::set<uint64_t> failed;
    for (const PlannedRows& rows : rows_of_step) failed.insert(owner(rows.id).id);
    for (const uint64_t id : failed) fail(*active_.at(id), error);
    return;
  }
  Clock::duration spent = Clock::now() - start;
  masks_due_ = start + spent + std::max<Clock::duration>(spent, kMaskPatience);
  scheduler_.complete(rows_of_step);
  int64_t next_logit = 0;
  std::shared_ptr<void> attention;
  for (const PlannedRows& rows : rows_of_step)
    check_choices(rows, std::exchange(next_logit, next_logit + rows.n_logits), output, attention);
  attention.reset();
  const float* hidden = output.hidden.data();
  next_logit = 0;
  for (const PlannedRows& rows : rows_of_step) {
    const int64_t first_logit = std::exchange(next_logit, next_logit + rows.n_logits);
    Active& a = owner(rows.id);
    if (!a.pass) {
      take_rows(rows, first_logit, output);
      continue;
    }
    // What a pass does with its rows belongs to their cost: streams wait for it.
    const Clock::time_point taken = Clock::now();
    if (a.pass->output() != ForwardOutput::hidden) {
      take_pass(a, rows, decoder_.logits(first_logit, rows.n_logits));
    } else {
      const std::span<const float> states(hidden, static_cast<size_t>(rows.n_rows * weights_->config.n_embd));
      hidden += states.size();
      take_pass(a, rows, states);
    }
    spent += Clock::now() - taken;
  }
  observe(rows_of_step, std::chrono::duration<double>(spent).count());
}

model::Batch Runner::batch_of(const std::vector<PlannedRows>& plan) {
  model::Batch batch = make_batch(scheduler_, plan);
  for (size_t i = 0; i < plan.size(); ++i) {
    const Active& a = owner(plan[i].id);
    model::SequenceRows& rows = batch.sequences[i];
    rows.adapters = a.answer.request().adapters.get();
    const int64_t n_deciding = a.pass || a.beams || plan[i].n_logits == 0 ? 0 : a.answer.n_deciding();
    // Few different sizes: a device records steps of each.
    if (n_deciding > 0 && n_deciding <= ops::kMostLikely)
      batch.n_likely = std::max(batch.n_likely, static_cast<int32_t>(std::bit_ceil(static_cast<uint64_t>(n_deciding))));
    if (!a.pass || a.pass->output() != ForwardOutput::hidden) continue;
    for (int64_t row = rows.first_row; row < rows.first_row + rows.n_rows; ++row)
      batch.hidden_rows.push_back(static_cast<int32_t>(row));
  }
  return batch;
}

void Runner::take_pass(Active& a, const PlannedRows& rows, std::span<const float> values) {
  a.pass->take(rows.first_position, rows.n_rows, values);
  if (!rows.is_newest) return;
  a.pass->finish();
  finish(a, {});
}

void Runner::observe(const std::vector<PlannedRows>& plan, double seconds) {
  int64_t n_prefill = 0, n_decode = 0;
  for (const PlannedRows& rows : plan) (rows.role == ops::Role::prefill ? n_prefill : n_decode) += rows.n_rows;
  cost_.observe(n_prefill, n_decode, seconds);
  ++stats_.n_steps;
  stats_.n_prompt_tokens += static_cast<uint64_t>(n_prefill);
  (n_prefill > n_decode ? stats_.prefill_seconds : stats_.decode_seconds) += seconds;
}

// What the computed rows of one sequence bring: a token, or progress.
void Runner::take_rows(const PlannedRows& rows, int64_t first_logit, const model::StepOutput& output) {
  Active& a = owner(rows.id);
  a.n_prompt_cached = scheduler_.n_cached(rows.id);
  const bool is_prompt = rows.role == ops::Role::prefill;
  if (a.answer.request().prompt_logprobs && is_prompt)
    score_prompt(a, rows, decoder_.logits(first_logit, rows.n_logits));
  if (rows.is_newest) {
    const int64_t n_newest = is_prompt ? 1 : rows.n_logits, first = first_logit + rows.n_logits - n_newest;
    const auto logits = [&](int64_t row, int64_t n) { return decoder_.logits(first + row, n); };
    return take_newest(a, rows.id, {n_newest, output.likely_of(first, n_newest), logits});
  }
  Event event;
  report_progress(a, rows.id, event);
  post(a, std::move(event));
}

// Asks rules about what would be drawn without them. All masks that this calls for are begun before one is waited for.
void Runner::check_choices(const PlannedRows& rows, int64_t first_logit, const model::StepOutput& output,
                           std::shared_ptr<void>& attention) {
  Active& a = owner(rows.id);
  if (!rows.is_newest || a.pass || a.beams || !a.answer.is_checked()) return;
  const std::span<const int32_t> drafts = scheduler_.tokens(a.id).last(static_cast<size_t>(scheduler_.n_drafts(a.id)));
  std::vector<sampling::Candidate> choices;
  for (int64_t row = first_logit + rows.n_logits - static_cast<int64_t>(drafts.size()) - 1;; ++row) {
    const std::span<const ops::Likely> likely = output.likely_of(row, 1);
    choices.push_back(likely.empty() ? sampling::likeliest(decoder_.logits(row, 1))
                                     : sampling::Candidate{likely.front().token, likely.front().logit});
    if (choices.back().token < 0)
      choices.pop_back();  // no number: the mask is asked for, and drawing says what is wrong
    const size_t n = choices.size();
    if (n == 0 || n > drafts.size() || choices.back().token != drafts[n - 1]) break;
  }
  if (!attention) attention = a.answer.request().mask->attention();
  a.answer.check_choices(masks_, choices, drafts);
}

// Whether the masks of a sequence's next tokens are there, or none are asked for.
bool Runner::has_mask(uint64_t sequence) {
  Active& a = owner(sequence);
  const ComingMasks& masks = a.beams ? a.beams->coming_mask(sequence) : a.answer.coming_masks();
  return !masks.valid() || masks.wait_for(Clock::duration::zero()) == std::future_status::ready;
}

// The rows' logits are kept where the masks are late.
void Runner::take_newest(Active& a, uint64_t sequence, const NewestRows& rows) {
  if (!has_mask(sequence) && !masks_.wait([&] { return has_mask(sequence); }, masks_due_)) {
    const std::span<const float> logits = rows.logits(0, rows.n_rows);
    late_[sequence].assign(logits.begin(), logits.end());
    return;
  }
  late_.erase(sequence);  // of before a preemption
  if (a.beams)
    search(a, sequence, rows.logits(0, rows.n_rows));
  else
    draw(a, rows);
}

// Goes on with sequences whose masks have come since. No rows of theirs were planned meanwhile.
void Runner::take_late() {
  const auto n_vocab = static_cast<size_t>(weights_->config.n_vocab);
  std::vector<uint64_t> ready;
  for (const auto& [sequence, logits] : late_) {
    if (has_mask(sequence)) ready.push_back(sequence);
  }
  for (const uint64_t sequence : ready) {
    auto kept = late_.extract(sequence);
    if (!kept) continue;
    const auto logits = [&](int64_t row, int64_t n) {
      return std::span(kept.mapped()).subspan(static_cast<size_t>(row) * n_vocab, static_cast<size_t>(n) * n_vocab);
    };
    take_newest(owner(sequence), sequence, {static_cast<int64_t>(kept.mapped().size() / n_vocab), {}, logits});
  }
}

void Runner::score_prompt(Active& a, const PlannedRows& rows, std::span<float> logits) {
  const std::vector<int32_t>& prompt = a.answer.request().prompt;
  const auto n_vocab = static_cast<size_t>(weights_->config.n_vocab);
  for (int64_t i = 0; i < rows.n_rows; ++i) {
    const auto next = static_cast<size_t>(rows.first_position + i + 1);
    if (next < prompt.size() && a.prompt_logprobs.size() + 1 == next) {
      const std::span<float> row = logits.subspan(static_cast<size_t>(i) * n_vocab, n_vocab);
      a.prompt_logprobs.push_back(log_softmax_at(row, prompt[next]));
      const int32_t n_top = a.answer.request().sampling.n_logprobs;
      if (n_top > 0) a.prompt_tops.push_back(sampling::most_likely(row, static_cast<size_t>(n_top)));
    }
  }
}

void Runner::report_progress(Active& a, uint64_t sequence, Event& event) {
  const auto n_prompt = static_cast<int64_t>(a.answer.request().prompt.size());
  a.n_prompt_reported = std::max(a.n_prompt_reported, std::min(n_prompt, scheduler_.n_computed(sequence)));
  event.n_prompt_done = a.n_prompt_reported;
  event.n_prompt_cached = a.n_prompt_cached;
}

// Draws from the likely tokens of a row if they decide, else from its logits.
int32_t Runner::next_token(Active& a, const NewestRows& rows, int64_t row, Event& event) {
  int32_t token = -1;
  if (a.answer.advance_as_checked(event, token)) return token;
  const int64_t n_deciding = a.answer.request().mask ? 0 : a.answer.n_deciding();
  const std::span<const ops::Likely> likely = rows.likely_of(row);
  if (n_deciding > 0 && n_deciding <= static_cast<int64_t>(likely.size())) {
    std::vector<sampling::Candidate> best;
    for (const ops::Likely& each : likely) {
      if (each.token >= 0) best.push_back({each.token, each.logit});
    }
    if (n_deciding <= static_cast<int64_t>(best.size())) return a.answer.advance_among(best, event);
  }
  return a.answer.advance(rows.logits(row, 1), event);
}

// Draws tokens from the rows of the newest token and its drafts, as long as the drafts are what is drawn.
void Runner::draw(Active& a, const NewestRows& rows) {
  const bool slides = a.answer.request().overflow == Overflow::slide;
  Event event;
  report_progress(a, a.id, event);
  if (a.answer.generated().empty()) {
    event.prompt_logprobs = a.prompt_logprobs;
    event.prompt_tops = a.prompt_tops;
    speculator_.restart(a.id, scheduler_.tokens(a.id));
  }
  if (a.answer.n_left() == 0) {
    a.answer.end(FinishReason::length, event);
    return finish(a, std::move(event));
  }
  const int64_t n_drafts = rows.n_rows - 1;
  int64_t n_right = 0, row = 0;
  for (bool goes_on = true; goes_on; ++row) {
    int32_t token = -1;
    try {
      token = next_token(a, rows, row, event);
    } catch (const std::exception& error) {
      return fail(a, error, std::move(event));
    }
    ++stats_.n_generated_tokens;
    const int64_t n_tokens = static_cast<int64_t>(scheduler_.tokens(a.id).size()) - scheduler_.n_drafts(a.id) + 1;
    const bool is_full = n_tokens >= options_.n_ctx + (slides ? 0 : 1);
    if (event.finish == FinishReason::none && is_full && !slides) a.answer.end(FinishReason::length, event);
    if (event.finish != FinishReason::none) return finish(a, std::move(event));
    goes_on = scheduler_.append(a.id, token);
    speculator_.append(a.id, token);
    n_right += goes_on ? 1 : 0;
    if (is_full) {
      slide(a);
      break;
    }
  }
  a.answer.drop_masks();
  speculator_.learn(a.id, n_drafts, n_right);
  stats_.n_drafted_tokens += static_cast<uint64_t>(n_drafts);
  stats_.n_accepted_tokens += static_cast<uint64_t>(n_right);
  post(a, std::move(event));
}

// One beam's logits; when all are there, the beams move on.
void Runner::search(Active& a, uint64_t sequence, std::span<float> logits) {
  try {
    if (!a.beams->report(sequence, logits)) return;
  } catch (const std::exception& error) {
    return fail(a, error);
  }
  stats_.n_generated_tokens += a.beams->beams().size();
  std::vector<uint64_t> sequences;
  for (const BeamSearch::Move& move : a.beams->step()) {
    if (a.beams->is_done() || move.tokens.empty()) {
      forget_beam(move.sequence);
      continue;
    }
    // Copies first: the original has to stay as it is until they are made.
    for (const int32_t token : std::span(move.tokens).first(move.tokens.size() - 1)) {
      const uint64_t id = next_beam_++;
      for (const BlockCopy& copy : scheduler_.fork(move.sequence, id)) kv_.copy_block(copy.from, copy.to);
      beam_owners_[id] = a.id;
      scheduler_.append(id, token);
      sequences.push_back(id);
    }
    scheduler_.append(move.sequence, move.tokens.back());
    sequences.push_back(move.sequence);
  }
  if (!a.beams->is_done()) return a.beams->adopt(sequences);
  Event event;
  event.n_prompt_done = static_cast<int64_t>(a.answer.request().prompt.size());
  event.n_prompt_cached = a.n_prompt_cached;
  event.hypotheses = a.beams->results();
  if (event.hypotheses.empty())
    return fail(a, Error(ErrorKind::invalid_argument, "No token can follow in any beam: every one is masked."));
  event.finish = event.hypotheses.front().finish;
  finish(a, std::move(event));
}

// Overflow::slide: the first n_keep tokens and the newest half of the rest become the new prompt.
void Runner::slide(Active& a) {
  const std::span<const int32_t> tokens = scheduler_.tokens(a.id);
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t n_keep = std::clamp<int64_t>(a.answer.request().n_keep, 0, options_.n_ctx / 2);
  const int64_t n_dropped = std::max<int64_t>(1, (n - n_keep) / 2);
  std::vector<int32_t> kept(tokens.begin(), tokens.begin() + n_keep);
  kept.insert(kept.end(), tokens.begin() + n_keep + n_dropped, tokens.end());
  a.dropped += n_dropped;
  speculator_.restart(a.id, kept);
  scheduler_.restart(a.id, std::move(kept));
}

EngineStats Runner::stats() const {
  EngineStats stats = stats_;
  stats.n_running = scheduler_.n_running();
  stats.n_waiting = scheduler_.n_waiting();
  stats.n_blocks = pool_.n_blocks();
  stats.n_blocks_free = pool_.n_free();
  stats.n_blocks_cached = scheduler_.n_cached_blocks();
  stats.n_preemptions = static_cast<uint64_t>(scheduler_.n_preemptions());
  return stats;
}

}  // namespace halfbyte::engine
