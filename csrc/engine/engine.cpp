// The engine thread: take requests, plan, run the model, sample, report. Callers meet it at one mutex.
#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>

#include "base/error.h"
#include "cache/kv_store.h"
#include "engine/forward.h"
#include "engine/options.h"
#include "engine/scheduler.h"
#include "engine/stop.h"

namespace halfbyte::engine {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) >> 1;  // fits a signed 64-bit integer too
}

// A request inside the engine; owned by the engine thread.
struct Active {
  uint64_t id = 0;
  Request request;
  std::shared_ptr<Mailbox> mailbox;
  sampling::Chain chain;
  StopMatcher stop;
  std::vector<int32_t> generated;  // all drawn tokens, dropped ones included
  std::vector<float> prompt_logprobs;
  int64_t n_prompt_reported = 0;
  int64_t dropped = 0;
  bool is_registered = false;  // the scheduler knows it
};

// Work that runs between steps on the engine thread.
struct Job {
  std::function<void()> work;
  bool done = false;
  std::exception_ptr failure = nullptr;
};

}  // namespace

struct Engine::State {
  EngineOptions options;
  std::shared_ptr<const model::Weights> weights;
  model::Decoder decoder;
  cache::KvStore kv;
  cache::BlockPool pool;
  Scheduler scheduler;

  // Engine thread only.
  std::unordered_map<uint64_t, std::unique_ptr<Active>> active;
  std::vector<std::pair<std::shared_ptr<Mailbox>, Event>> outbox;  // what this step has to tell

  mutable std::mutex mutex;  // guards everything below
  std::condition_variable work_arrived, job_done;
  std::deque<std::unique_ptr<Active>> incoming;
  std::vector<uint64_t> cancelled_ids;
  std::deque<Job*> jobs;
  EngineStats stats;
  uint64_t next_id = 1;
  bool stopping = false;
  bool stop_forward = false;  // read by the decoder between layers
  std::vector<uint64_t> planned_ids;

  std::thread thread;  // last: everything else lives before it starts

  State(std::shared_ptr<const model::Weights> w, EngineOptions o)
      : options(resolve_options(std::move(o), *w)),
        weights(std::move(w)),
        decoder(weights, options.n_threads, options.n_batch, std::max(options.max_sequences, kForwardChunk),
                options.n_ctx),
        kv(decoder.make_kv(
            options.k_type, options.v_type,
            static_cast<int32_t>((options.kv_tokens + ops::kKvBlockTokens - 1) / ops::kKvBlockTokens + 1))),
        pool(kv.n_blocks()),
        scheduler(pool, {options.n_batch, options.max_sequences, options.prefix_cache}) {
    thread = std::thread([this] { loop(); });
  }

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      __atomic_store_n(&stop_forward, true, __ATOMIC_RELAXED);
    }
    work_arrived.notify_all();
    thread.join();
  }

  void post(const Active& a, Event event) {
    event.request_id = a.id;
    event.dropped = a.dropped;
    outbox.emplace_back(a.mailbox, std::move(event));
  }

  // Hands the step's news over, one call for each mailbox.
  void deliver() {
    std::stable_sort(outbox.begin(), outbox.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
    for (auto first = outbox.begin(); first != outbox.end();) {
      const auto last = std::find_if(first, outbox.end(), [&](const auto& each) { return each.first != first->first; });
      std::vector<Event> events;
      for (auto each = first; each != last; ++each) events.push_back(std::move(each->second));
      first->first->post(std::move(events));
      first = last;
    }
    outbox.clear();
  }

  void finish(Active& a, Event event) {
    if (a.is_registered) scheduler.finish(a.id);
    post(a, std::move(event));
    active.erase(a.id);
  }

  void fail(Active& a, ErrorKind kind, const std::string& message) {
    Event event;
    event.finish = FinishReason::error;
    event.error = message;
    event.error_kind = static_cast<int>(kind);
    event.bytes = a.stop.flush();
    finish(a, std::move(event));
  }

  void run_between_steps(std::function<void()> work) {
    Job job{std::move(work)};
    std::unique_lock lock(mutex);
    if (stopping) throw Error(ErrorKind::cancelled, "The engine was closed.");
    jobs.push_back(&job);
    work_arrived.notify_all();
    job_done.wait(lock, [&] { return job.done; });
    if (job.failure) std::rethrow_exception(job.failure);
  }

  void loop();
  bool take_work();
  void step();
  model::Batch make_batch(const std::vector<PlannedRows>& plan);
  void sample_row(Active& a, std::span<float> logits);
  void slide(Active& a);
  void report_progress(Active& a, Event& event);
  void prompt_logprobs(Active& a, const PlannedRows& rows, std::span<const float> logits);
};

// Moves callers' wishes into the engine; returns false when the engine should end.
bool Engine::State::take_work() {
  std::deque<std::unique_ptr<Active>> arrived;
  std::vector<uint64_t> cancelled;
  std::deque<Job*> waiting_jobs;
  {
    std::unique_lock lock(mutex);
    work_arrived.wait(lock, [&] {
      return stopping || !incoming.empty() || !cancelled_ids.empty() || !jobs.empty() || !active.empty();
    });
    if (stopping) return false;
    arrived.swap(incoming);
    cancelled.swap(cancelled_ids);
    waiting_jobs.swap(jobs);
    __atomic_store_n(&stop_forward, false, __ATOMIC_RELAXED);
  }
  for (std::unique_ptr<Active>& a : arrived) {
    const uint64_t id = a->id;
    // Every prompt row's logits are wanted for prompt_logprobs: small chunks keep the logits buffer small.
    scheduler.add(id, a->request.prompt, a->request.priority, a->request.prompt_logprobs ? kForwardChunk : 0);
    a->is_registered = true;
    active.emplace(id, std::move(a));
  }
  for (const uint64_t id : cancelled) {
    const auto found = active.find(id);
    if (found == active.end()) continue;
    Event event;
    event.finish = FinishReason::cancelled;
    event.bytes = found->second->stop.flush();
    finish(*found->second, std::move(event));
  }
  for (Job* job : waiting_jobs) {
    try {
      job->work();
    } catch (...) {
      job->failure = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    job->done = true;
    job_done.notify_all();
  }
  return true;
}

void Engine::State::loop() {
  while (take_work()) {
    if (!active.empty()) step();
    deliver();
    const std::lock_guard lock(mutex);
    stats.n_running = scheduler.n_running();
    stats.n_waiting = scheduler.n_waiting();
    stats.n_blocks = pool.n_blocks();
    stats.n_blocks_free = pool.n_free();
    stats.n_blocks_cached = scheduler.n_cached_blocks();
    stats.n_preemptions = static_cast<uint64_t>(scheduler.n_preemptions());
  }
  std::vector<uint64_t> ids;
  for (const auto& [id, a] : active) ids.push_back(id);
  for (const uint64_t id : ids) {
    Event event;
    event.finish = FinishReason::cancelled;
    finish(*active.at(id), std::move(event));
  }
  const std::lock_guard lock(mutex);
  for (const std::unique_ptr<Active>& a : incoming) {
    Event event;
    event.finish = FinishReason::cancelled;
    post(*a, std::move(event));
  }
  deliver();
  for (Job* job : jobs) {
    job->failure = std::make_exception_ptr(Error(ErrorKind::cancelled, "The engine was closed."));
    job->done = true;
  }
  job_done.notify_all();
}

model::Batch Engine::State::make_batch(const std::vector<PlannedRows>& plan) {
  model::Batch batch;
  for (const PlannedRows& rows : plan) {
    const std::span<const int32_t> tokens = scheduler.tokens(rows.id);
    const auto first_row = batch.n_rows();
    for (int64_t p = rows.first_position; p < rows.first_position + rows.n_rows; ++p) {
      batch.tokens.push_back(tokens[static_cast<size_t>(p)]);
      batch.positions.push_back(static_cast<int32_t>(p));
    }
    batch.sequences.push_back({first_row, rows.n_rows, rows.first_position, rows.role, scheduler.block_table(rows.id)});
    const bool every_row = active.at(rows.id)->request.prompt_logprobs && rows.role == ops::Role::prefill;
    for (int64_t row = first_row; row < batch.n_rows(); ++row) {
      if (every_row || (rows.wants_logits && row + 1 == batch.n_rows()))
        batch.logit_rows.push_back(static_cast<int32_t>(row));
    }
  }
  return batch;
}

void Engine::State::step() {
  const std::vector<PlannedRows> plan = scheduler.plan();
  if (plan.empty()) {
    // Cannot happen while every request fits the pool alone; refuse rather than spin.
    if (!active.empty())
      fail(*active.begin()->second, ErrorKind::out_of_memory, "The KV cache has no room for this request.");
    return;
  }
  {
    const std::lock_guard lock(mutex);
    planned_ids.clear();
    for (const PlannedRows& rows : plan) planned_ids.push_back(rows.id);
  }
  const model::Batch batch = make_batch(plan);
  const Clock::time_point start = Clock::now();
  std::span<const float> logits;
  try {
    logits = decoder.forward(batch, kv, &stop_forward);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::cancelled)
      return;  // nothing was completed: the rows are planned again, or cancelled
    for (const PlannedRows& rows : plan) {
      if (const auto found = active.find(rows.id); found != active.end())
        fail(*found->second, error.kind(), error.what());
    }
    return;
  }
  const double seconds = seconds_since(start);
  scheduler.complete(plan);
  int64_t n_prefill = 0, n_decode = 0;
  for (const PlannedRows& rows : plan) (rows.role == ops::Role::prefill ? n_prefill : n_decode) += rows.n_rows;
  {
    const std::lock_guard lock(mutex);
    ++stats.n_steps;
    stats.n_prompt_tokens += static_cast<uint64_t>(n_prefill);
    stats.n_generated_tokens += static_cast<uint64_t>(n_decode);
    (n_prefill > n_decode ? stats.prefill_seconds : stats.decode_seconds) += seconds;
  }

  const auto n_vocab = static_cast<size_t>(weights->config.n_vocab);
  size_t row = 0;
  for (const PlannedRows& rows : plan) {
    Active& a = *active.at(rows.id);
    const bool every_row = a.request.prompt_logprobs && rows.role == ops::Role::prefill;
    const size_t n_rows = every_row ? static_cast<size_t>(rows.n_rows) : rows.wants_logits ? 1 : 0;
    const std::span<const float> mine = logits.subspan(row * n_vocab, n_rows * n_vocab);
    row += n_rows;
    if (every_row) prompt_logprobs(a, rows, mine);
    if (rows.wants_logits) {
      // The decoder's buffer is overwritten by the next step anyway: the chain may edit it in place.
      sample_row(a, {const_cast<float*>(mine.data()) + (n_rows - 1) * n_vocab, n_vocab});
    } else {
      Event event;
      report_progress(a, event);
      post(a, std::move(event));
    }
  }
}

void Engine::State::prompt_logprobs(Active& a, const PlannedRows& rows, std::span<const float> logits) {
  const auto n_vocab = static_cast<size_t>(weights->config.n_vocab);
  for (int64_t i = 0; i < rows.n_rows; ++i) {
    const auto next = static_cast<size_t>(rows.first_position + i + 1);
    if (next < a.request.prompt.size() && a.prompt_logprobs.size() + 1 == next) {
      a.prompt_logprobs.push_back(
          log_softmax_at(logits.subspan(static_cast<size_t>(i) * n_vocab, n_vocab), a.request.prompt[next]));
    }
  }
}

void Engine::State::report_progress(Active& a, Event& event) {
  const auto n_prompt = static_cast<int64_t>(a.request.prompt.size());
  a.n_prompt_reported = std::max(a.n_prompt_reported, std::min(n_prompt, scheduler.n_computed(a.id)));
  event.n_prompt_done = a.n_prompt_reported;
  event.n_prompt_cached = scheduler.n_cached(a.id);
}

// Draws the next token of a request and decides whether it goes on.
void Engine::State::sample_row(Active& a, std::span<float> logits) {
  const Request& r = a.request;
  Event event;
  report_progress(a, event);
  if (a.generated.empty()) event.prompt_logprobs = a.prompt_logprobs;
  sampling::Sample sample;
  try {
    if (r.max_tokens == 0) {
      event.finish = FinishReason::length;
      return finish(a, std::move(event));
    }
    const uint32_t* mask = nullptr;
    if (r.processor) r.processor->process(a.generated, logits, &mask);
    if (static_cast<int64_t>(a.generated.size()) < r.min_tokens) {
      for (const int32_t token : r.stop_tokens) {
        if (token >= 0 && static_cast<size_t>(token) < logits.size()) logits[static_cast<size_t>(token)] = -INFINITY;
      }
    }
    sample = a.chain.sample(logits, r.prompt, a.generated, mask);
  } catch (const Error& error) {
    return fail(a, error.kind(), error.what());
  } catch (const std::exception& error) {
    return fail(a, ErrorKind::invalid_argument, error.what());
  }
  const int32_t token = sample.token;
  a.generated.push_back(token);
  event.samples.push_back(std::move(sample));

  if (std::find(r.stop_tokens.begin(), r.stop_tokens.end(), token) != r.stop_tokens.end()) {
    event.finish = FinishReason::stop;
    event.stop_token = token;
    event.bytes = a.stop.flush();
    return finish(a, std::move(event));
  }
  if (static_cast<size_t>(token) < options.token_bytes.size())
    event.bytes = a.stop.feed(options.token_bytes[static_cast<size_t>(token)]);
  if (a.stop.has_matched()) {
    event.finish = FinishReason::stop;
    event.stop_string = a.stop.match();
    return finish(a, std::move(event));
  }
  const auto n_tokens = static_cast<int64_t>(scheduler.tokens(a.id).size()) + 1;
  const bool context_full = n_tokens >= options.n_ctx + (r.overflow == Overflow::error ? 1 : 0);
  const bool reached_limit = r.max_tokens >= 0 && static_cast<int64_t>(a.generated.size()) >= r.max_tokens;
  if (reached_limit || (context_full && r.overflow == Overflow::error)) {
    event.finish = FinishReason::length;
    event.bytes += a.stop.flush();
    return finish(a, std::move(event));
  }
  scheduler.append(a.id, token);
  if (context_full) slide(a);
  post(a, std::move(event));
}

// Overflow::slide: the first n_keep tokens and the newest half of the rest become the new prompt.
void Engine::State::slide(Active& a) {
  const std::span<const int32_t> tokens = scheduler.tokens(a.id);
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t n_keep = std::clamp<int64_t>(a.request.n_keep, 0, options.n_ctx / 2);
  const int64_t n_dropped = std::max<int64_t>(1, (n - n_keep) / 2);
  std::vector<int32_t> kept(tokens.begin(), tokens.begin() + n_keep);
  kept.insert(kept.end(), tokens.begin() + n_keep + n_dropped, tokens.end());
  a.dropped += n_dropped;
  scheduler.restart(a.id, std::move(kept));
}

Engine::Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options)
    : state_(std::make_unique<State>(std::move(weights), std::move(options))) {}

Engine::~Engine() = default;

const EngineOptions& Engine::options() const {
  return state_->options;
}

uint64_t Engine::submit(Request request, std::shared_ptr<Mailbox> mailbox, uint64_t* seed) {
  State& s = *state_;
  require(mailbox != nullptr, "A request needs a mailbox for its events.");
  const auto n_prompt = static_cast<int64_t>(request.prompt.size());
  const auto n_vocab = static_cast<int32_t>(s.weights->config.n_vocab);
  require(n_prompt >= 1, "The prompt is empty: at least one token is needed.");
  for (const int32_t token : request.prompt)
    require(token >= 0 && token < n_vocab, "Token id %d is outside the vocabulary of %d.", token, n_vocab);
  require(request.max_tokens >= -1, "max_tokens is %lld; a count or -1 (no limit) was expected.",
          static_cast<long long>(request.max_tokens));
  if (n_prompt > s.options.n_ctx || (n_prompt == s.options.n_ctx && request.max_tokens != 0)) {
    throw Error(ErrorKind::context_overflow,
                format_string("The prompt has %lld tokens; the context holds %lld, the answer included.",
                              static_cast<long long>(n_prompt), static_cast<long long>(s.options.n_ctx)),
                "Shorten the prompt, or open the model with a larger n_ctx.");
  }
  if (!request.sampling.seed) request.sampling.seed = random_seed();
  if (seed != nullptr) *seed = *request.sampling.seed;
  sampling::Chain chain(request.sampling, n_vocab);
  StopMatcher stop(request.stop_strings, request.include_stop);
  require(request.stop_strings.empty() || !s.options.token_bytes.empty(),
          "Stop strings need the vocabulary's bytes (token_bytes).");
  auto a = std::unique_ptr<Active>(
      new Active{0, std::move(request), std::move(mailbox), std::move(chain), std::move(stop), {}, {}, 0, 0, false});
  const std::lock_guard lock(s.mutex);
  if (s.stopping) throw Error(ErrorKind::cancelled, "The engine was closed.");
  a->id = s.next_id++;
  const uint64_t id = a->id;
  s.incoming.push_back(std::move(a));
  s.work_arrived.notify_all();
  return id;
}

void Engine::cancel(uint64_t request_id) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.cancelled_ids.push_back(request_id);
  // When it is the only one in the running step, that step's result is of no use to anyone.
  if (!s.planned_ids.empty() &&
      std::all_of(s.planned_ids.begin(), s.planned_ids.end(), [&](uint64_t id) { return id == request_id; })) {
    __atomic_store_n(&s.stop_forward, true, __ATOMIC_RELAXED);
  }
  s.work_arrived.notify_all();
}

std::vector<float> Engine::forward(const std::vector<int32_t>& tokens, Output output) {
  State& s = *state_;
  std::vector<float> result;
  s.run_between_steps([&] {
    result = run_forward(
        s.decoder, s.kv, s.pool, [&] { s.scheduler.forget_prefixes(); }, tokens, output,
        std::min(s.options.n_batch, kForwardChunk));
  });
  return result;
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(state_->mutex);
  return state_->stats;
}

void Engine::check_integrity() const {
  state_->run_between_steps([this] { state_->scheduler.check_integrity(); });
}

}  // namespace halfbyte::engine
