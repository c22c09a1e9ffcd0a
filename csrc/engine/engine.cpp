// Callers and the engine thread meet at one mutex; the thread never holds it while it computes.
#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/home.h"

namespace halfbyte::engine {

namespace {

// How often whoever waits for a pass is asked whether to go on.
constexpr std::chrono::milliseconds kAsk(50);

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) >> 1;  // fits a signed 64-bit integer too
}

// Work that runs between steps on the engine thread.
struct Job {
  std::function<void()> work;
  bool done = false;
  std::exception_ptr failure;
};

void run(Job& job) {
  try {
    job.work();
  } catch (...) {
    job.failure = std::current_exception();
  }
}

}  // namespace

struct Engine::State {
  const Home home;
  EngineOptions options;
  std::shared_ptr<const model::Weights> weights;
  std::optional<Runner> runner;  // engine thread only; its memory and its threads go when the engine is closed

  mutable std::mutex mutex;  // guards everything below
  std::condition_variable work_arrived, job_done;
  std::deque<std::unique_ptr<Active>> incoming;
  std::vector<uint64_t> cancelled;
  std::deque<Job*> jobs;
  EngineStats stats;
  uint64_t next_id = 1;
  bool stopping = false;
  bool stop_forward = false;      // read by the decoder between layers
  std::vector<uint64_t> in_step;  // requests of the running step

  std::once_flag joined;
  std::thread thread;  // last: everything else lives before it starts

  State(std::shared_ptr<const model::Weights> w, std::shared_ptr<const model::Weights> draft, EngineOptions o)
      : options(resolve_options(std::move(o), *w, draft.get())),
        weights(w),
        runner(std::in_place, std::move(w), std::move(draft), options) {
    thread = std::thread([this] { loop(); });
  }

  ~State() { close(); }

  bool is_own_thread() const { return std::this_thread::get_id() == thread.get_id(); }
  void close();
  void loop();
  bool take_work();
  void tell();
  void end();
  void run_job(std::function<void()> work);
};

void Engine::State::close() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
    __atomic_store_n(&stop_forward, true, __ATOMIC_RELAXED);
  }
  work_arrived.notify_all();
  // A logits processor may close the engine that calls it: its thread ends when the call is over.
  if (!is_own_thread()) std::call_once(joined, [this] { thread.join(); });
}

// Moves callers' wishes into the engine; returns false when the engine should end.
bool Engine::State::take_work() {
  std::deque<std::unique_ptr<Active>> arrived;
  std::vector<uint64_t> ended;
  std::deque<Job*> waiting_jobs;
  {
    std::unique_lock lock(mutex);
    work_arrived.wait(lock, [&] {
      return stopping || !incoming.empty() || !cancelled.empty() || !jobs.empty() || !runner->is_idle();
    });
    if (stopping) return false;
    arrived.swap(incoming);
    ended.swap(cancelled);
    waiting_jobs.swap(jobs);
    in_step.clear();
    __atomic_store_n(&stop_forward, false, __ATOMIC_RELAXED);
  }
  for (std::unique_ptr<Active>& each : arrived) runner->add(std::move(each));
  for (const uint64_t id : ended) runner->cancel(id);
  if (!ended.empty()) tell();
  for (Job* job : waiting_jobs) {
    run(*job);
    const std::lock_guard lock(mutex);
    job->done = true;
    job_done.notify_all();
  }
  return true;
}

// Figures first: whoever has read a request's last event finds them without the request.
void Engine::State::tell() {
  {
    const std::lock_guard lock(mutex);
    stats = runner->stats();
  }
  runner->deliver();
}

void Engine::State::loop() {
  const auto planned = [&](std::vector<uint64_t> ids) {
    const std::lock_guard lock(mutex);
    in_step = std::move(ids);
    stats = runner->stats();
  };
  while (take_work()) {
    try {
      if (!runner->is_idle()) runner->step(planned, &stop_forward);
    } catch (const std::exception& error) {  // no memory for a plan, say: the process lives on
      runner->fail_all(error);
    }
    tell();
  }
  end();
}

// Cancels whatever is left. Requests are let go of without the lock: theirs may be waited for by who wants ours.
void Engine::State::end() {
  std::deque<std::unique_ptr<Active>> arrived;
  {
    const std::lock_guard lock(mutex);
    arrived.swap(incoming);
  }
  for (std::unique_ptr<Active>& each : arrived) runner->add(std::move(each));
  runner->cancel_all();
  tell();
  runner.reset();
  const std::lock_guard lock(mutex);
  for (Job* job : jobs) {
    job->failure = std::make_exception_ptr(Error(ErrorKind::cancelled, "The engine was closed."));
    job->done = true;
  }
  job_done.notify_all();
}

void Engine::State::run_job(std::function<void()> work) {
  Job job{.work = std::move(work), .done = false, .failure = nullptr};
  std::unique_lock lock(mutex);
  if (stopping) throw Error(ErrorKind::cancelled, "The engine was closed.");
  jobs.push_back(&job);
  work_arrived.notify_all();
  job_done.wait(lock, [&] { return job.done; });
  if (job.failure) std::rethrow_exception(job.failure);
}

Engine::Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options,
               std::shared_ptr<const model::Weights> draft)
    : state_(std::make_unique<State>(std::move(weights), std::move(draft), std::move(options))) {}

Engine::~Engine() {
  if (!state_->home.is_here()) {
    (void)state_.release();  // its threads cannot be joined, nor its locks taken apart
  } else if (state_->is_own_thread()) {
    // The last reference went in a logits processor, or in a garbage collection during its call.
    std::thread([state = std::move(state_)]() mutable { state.reset(); }).detach();
  }
}

void Engine::close() {
  if (state_->home.is_here()) state_->close();
}

const EngineOptions& Engine::options() const {
  return state_->options;
}

uint64_t Engine::submit(Request request, std::shared_ptr<Mailbox> mailbox, uint64_t* seed) {
  State& s = *state_;
  s.home.check();
  require(mailbox != nullptr, "A request needs a mailbox for its events.");
  check_request(request, s.weights->config.n_vocab, s.options);
  if (request.adapters != nullptr) check_adapters(*request.adapters, *s.weights);
  if (!request.sampling.seed) request.sampling.seed = random_seed();
  if (seed != nullptr) *seed = *request.sampling.seed;
  auto active = std::make_unique<Active>(
      0, std::move(mailbox),
      Answer(std::move(request), static_cast<int32_t>(s.weights->config.n_vocab), s.options.token_bytes));
  const std::lock_guard lock(s.mutex);
  if (s.stopping) throw Error(ErrorKind::cancelled, "The engine was closed.");
  const auto n_waiting = s.stats.n_waiting + static_cast<int64_t>(s.incoming.size());
  if (s.options.max_waiting > 0 && n_waiting >= s.options.max_waiting) {
    throw Error(
        ErrorKind::busy,
        format_string("%lld requests are waiting already; the queue holds no more.", static_cast<long long>(n_waiting)),
        "Try again later.");
  }
  const uint64_t id = s.next_id++;
  active->id = id;
  s.incoming.push_back(std::move(active));
  s.work_arrived.notify_all();
  return id;
}

void Engine::cancel(uint64_t request_id) {
  State& s = *state_;
  if (!s.home.is_here()) return;
  const std::lock_guard lock(s.mutex);
  s.cancelled.push_back(request_id);
  // When nobody else is in the running step, its result is of no use to anyone.
  const auto is_cancelled = [&](uint64_t id) {
    return std::find(s.cancelled.begin(), s.cancelled.end(), id) != s.cancelled.end();
  };
  if (!s.in_step.empty() && std::all_of(s.in_step.begin(), s.in_step.end(), is_cancelled))
    __atomic_store_n(&s.stop_forward, true, __ATOMIC_RELAXED);
  s.work_arrived.notify_all();
}

std::vector<float> Engine::forward(std::vector<int32_t> tokens, ForwardOutput output,
                                   std::shared_ptr<const model::AdapterSet> adapters,
                                   const std::function<bool()>& goes_on) {
  State& s = *state_;
  s.home.check();
  if (adapters != nullptr) check_adapters(*adapters, *s.weights);
  check_pass(tokens, s.weights->config.n_vocab, s.options);
  auto pass = std::make_unique<ForwardPass>(output, tokens);
  std::future<std::vector<float>> result = pass->result();
  Request request;
  request.prompt = std::move(tokens);
  request.max_tokens = 0;
  request.sampling.seed = 0;
  request.adapters = std::move(adapters);
  auto active = std::make_unique<Active>(
      0, nullptr, Answer(std::move(request), static_cast<int32_t>(s.weights->config.n_vocab), s.options.token_bytes));
  active->pass = std::move(pass);
  uint64_t id = 0;
  {
    const std::lock_guard lock(s.mutex);
    if (s.stopping) throw Error(ErrorKind::cancelled, "The engine was closed.");
    id = active->id = s.next_id++;
    s.incoming.push_back(std::move(active));
    s.work_arrived.notify_all();
  }
  while (goes_on && result.wait_for(kAsk) != std::future_status::ready) {
    if (goes_on()) continue;
    cancel(id);
    break;
  }
  return result.get();
}

EngineStats Engine::stats() const {
  state_->home.check();
  const std::lock_guard lock(state_->mutex);
  return state_->stats;
}

void Engine::check_integrity() const {
  state_->home.check();
  state_->run_job([&] { state_->runner->check_integrity(); });
}

}  // namespace halfbyte::engine
