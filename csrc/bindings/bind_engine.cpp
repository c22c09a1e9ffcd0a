// The engine: submit, events, cancel, forward. The GIL is released whenever a call may wait or compute.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bindings/bind.h"
#include "engine/engine.h"

namespace halfbyte::bindings {

py::dict sample_to_python(const sampling::Sample& sample);  // bind_sampling.cpp
py::list tops_to_python(const std::vector<sampling::TokenLogprob>& tops);
py::object error_to_python(const Error& error);  // bind_errors.cpp

namespace {

using engine::Engine;
using engine::Event;
using engine::Mailbox;
using engine::Request;
using Adapters = std::optional<std::shared_ptr<model::AdapterSet>>;  // None: the plain model

// Calls f(generated, logits) in the engine thread, with a writable view of the logits that is valid during the call.
class PythonProcessor : public engine::LogitsProcessor {
 public:
  explicit PythonProcessor(py::list functions) : functions_(new py::list(std::move(functions))) {}
  ~PythonProcessor() override {
    const py::gil_scoped_acquire gil;
    functions_.reset();
  }

  void process(std::span<const int32_t> generated, std::span<float> logits) override {
    const py::gil_scoped_acquire gil;
    try {
      const py::array_t<int32_t> tokens(static_cast<py::ssize_t>(generated.size()), generated.data());
      const py::capsule borrowed(logits.data(), [](void*) {});
      const py::array_t<float> view(static_cast<py::ssize_t>(logits.size()), logits.data(), borrowed);
      for (const py::handle function : *functions_) function(tokens, view);
    } catch (py::error_already_set& error) {
      throw Error(ErrorKind::invalid_argument, std::string("A logits processor failed: ") + error.what());
    }
  }

 private:
  std::unique_ptr<py::list> functions_;
};

// Calls f(generated) -> uint32 array or None in the engine's mask thread. Where f has f.admits(choices) -> int, it asks
// that first, after f.follow(generated) if generated is not what f heard last with the choices that it admitted.
class PythonMask : public engine::TokenMask {
 public:
  explicit PythonMask(py::object function) : held_(new Held) {
    if (py::hasattr(function, "admits")) {
      held_->admits = function.attr("admits");
      held_->follow = function.attr("follow");
    }
    held_->function = std::move(function);
  }
  ~PythonMask() override {
    const py::gil_scoped_acquire gil;
    held_.reset();
  }

  std::span<const uint32_t> allowed(std::span<const int32_t> generated) override {
    const py::gil_scoped_acquire gil;
    return in_our_words([&]() -> std::span<const uint32_t> {
      heard_.assign(generated.begin(), generated.end());
      const py::object result = held_->function(array(generated));
      if (result.is_none()) return {};
      held_->mask = result.cast<py::array_t<uint32_t, py::array::c_style | py::array::forcecast>>();
      require(held_->mask.size() > 0, "A mask function returned an empty mask.");
      return {held_->mask.data(), static_cast<size_t>(held_->mask.size())};
    });
  }

  size_t admits(std::span<const int32_t> generated, std::span<const int32_t> choices) override {
    if (!held_->admits) return 0;
    const py::gil_scoped_acquire gil;
    return in_our_words([&] {
      if (!std::ranges::equal(heard_, generated)) {
        heard_.assign(generated.begin(), generated.end());
        held_->follow(array(generated));
      }
      py::list listed;
      for (const int32_t choice : choices) listed.append(choice);
      const size_t n = std::min(held_->admits(listed).cast<size_t>(), choices.size());
      heard_.insert(heard_.end(), choices.begin(), choices.begin() + static_cast<std::ptrdiff_t>(n));
      return n;
    });
  }

  std::shared_ptr<void> attention() override { return std::make_shared<py::gil_scoped_acquire>(); }

 private:
  // Apart, so that the destructor can let go of it while it has the GIL.
  struct Held {
    py::object function, admits, follow;
    py::array_t<uint32_t> mask;
  };

  static py::array_t<int32_t> array(std::span<const int32_t> tokens) {
    return py::array_t<int32_t>(static_cast<py::ssize_t>(tokens.size()), tokens.data());
  }

  template <class Ask>
  auto in_our_words(Ask&& ask) -> decltype(ask()) {
    try {
      return ask();
    } catch (py::error_already_set& error) {
      throw Error(ErrorKind::invalid_argument, std::string("A mask function failed: ") + error.what());
    } catch (const py::cast_error& error) {
      throw Error(ErrorKind::invalid_argument, std::string("A mask function returned no uint32 mask: ") + error.what());
    }
  }

  std::unique_ptr<Held> held_;
  std::vector<int32_t> heard_;  // the tokens that the function was told, or admitted, last
};

ops::KvType kv_type(const std::string& name) {
  ops::KvType type;
  require(ops::parse_kv_type(name, type), "There is no KV type %s; choose f16, bf16, f32, q8_0 or q4_0.", name.c_str());
  return type;
}

const char* finish_name(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::none:
      return "";
    case engine::FinishReason::stop:
      return "stop";
    case engine::FinishReason::length:
      return "length";
    case engine::FinishReason::cancelled:
      return "cancelled";
    case engine::FinishReason::error:
      return "error";
  }
  return "";
}

std::pair<uint64_t, uint64_t> submit(Engine& e, std::vector<int32_t> prompt, const sampling::Params& params,
                                     std::shared_ptr<Mailbox> mailbox, int64_t max_tokens, int64_t min_tokens,
                                     std::vector<int32_t> stop_tokens, std::vector<py::bytes> stop_strings,
                                     bool include_stop, const std::string& overflow, int64_t n_keep, int32_t priority,
                                     std::string client, bool prompt_logprobs, int64_t beam_width, int64_t n_hypotheses,
                                     double length_penalty, bool early_stopping, const py::list& processors,
                                     const py::object& mask_function, const Adapters& adapters) {
  require(overflow == "error" || overflow == "slide", "overflow is \"%s\"; \"error\" or \"slide\" was expected.",
          overflow.c_str());
  Request request;
  request.prompt = std::move(prompt);
  request.sampling = params;
  request.max_tokens = max_tokens;
  request.min_tokens = min_tokens;
  request.stop_tokens = std::move(stop_tokens);
  for (const py::bytes& stop : stop_strings) request.stop_strings.emplace_back(std::string_view(stop));
  request.include_stop = include_stop;
  request.overflow = overflow == "slide" ? engine::Overflow::slide : engine::Overflow::error;
  request.n_keep = n_keep;
  request.priority = priority;
  request.client = std::move(client);
  request.prompt_logprobs = prompt_logprobs;
  request.beam_width = beam_width;
  request.n_hypotheses = n_hypotheses;
  request.length_penalty = length_penalty;
  request.early_stopping = early_stopping;
  request.adapters = adapters.value_or(nullptr);
  if (!processors.empty()) request.processor = std::make_shared<PythonProcessor>(processors);
  if (!mask_function.is_none()) request.mask = std::make_shared<PythonMask>(mask_function);
  uint64_t seed = 0;
  const py::gil_scoped_release release;
  const uint64_t id = e.submit(std::move(request), std::move(mailbox), &seed);
  return {id, seed};
}

py::dict event_to_python(const Event& event) {
  py::dict out;
  py::list samples;
  for (const sampling::Sample& sample : event.samples) samples.append(sample_to_python(sample));
  out["id"] = event.request_id;
  out["samples"] = samples;
  out["bytes"] = py::bytes(event.bytes);
  out["n_prompt_done"] = event.n_prompt_done;
  out["n_prompt_cached"] = event.n_prompt_cached;
  out["dropped"] = event.dropped;
  out["finish"] = finish_name(event.finish);
  out["stop_string"] = py::bytes(event.stop_string);
  out["stop_token"] = event.stop_token;
  out["prompt_logprobs"] = event.prompt_logprobs;
  py::list prompt_tops;
  for (const auto& tops : event.prompt_tops) prompt_tops.append(tops_to_python(tops));
  out["prompt_top_logprobs"] = prompt_tops;
  py::list hypotheses;
  for (const engine::Hypothesis& each : event.hypotheses) {
    py::dict hypothesis;
    py::list drawn;
    for (const sampling::Sample& sample : each.samples) drawn.append(sample_to_python(sample));
    hypothesis["samples"] = drawn;
    hypothesis["bytes"] = py::bytes(each.bytes);
    hypothesis["score"] = each.score;
    hypothesis["finish"] = finish_name(each.finish);
    hypothesis["stop_string"] = py::bytes(each.stop_string);
    hypothesis["stop_token"] = each.stop_token;
    hypotheses.append(hypothesis);
  }
  out["hypotheses"] = hypotheses;
  out["error"] = event.finish == engine::FinishReason::error
                     ? error_to_python(Error(static_cast<ErrorKind>(event.error_kind), event.error))
                     : py::none();
  return out;
}

py::list take(Mailbox& mailbox, double timeout_s) {
  require(timeout_s >= 0 && timeout_s <= 1e6, "timeout_s is %g; 0 to a million seconds were expected.", timeout_s);
  const std::chrono::milliseconds timeout(static_cast<int64_t>(timeout_s * 1000));
  const std::vector<Event> events = without_lock([&] { return mailbox.take(timeout); });
  py::list out;
  for (const Event& event : events) out.append(event_to_python(event));
  return out;
}

py::array_t<float> forward(Engine& e, const std::vector<int32_t>& tokens, const std::string& output,
                           const Adapters& adapters) {
  const auto kind = output == "hidden"          ? engine::ForwardOutput::hidden
                    : output == "next_logprobs" ? engine::ForwardOutput::next_logprobs
                                                : engine::ForwardOutput::logits;
  require(output == "logits" || kind != engine::ForwardOutput::logits,
          "forward() gives logits, hidden or next_logprobs, not %s.", output.c_str());
  // Ctrl-C is seen while the pass runs, by the thread that may see it; others must not ask for the interpreter's lock
  // while they wait (without_lock() says why).
  bool is_interrupted = false;
  std::function<bool()> goes_on;
  if (py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>() ==
      PyThread_get_thread_ident()) {
    goes_on = [&] {
      const py::gil_scoped_acquire gil;
      return !(is_interrupted = PyErr_CheckSignals() != 0);
    };
  }
  std::vector<float> values;
  try {
    values = without_lock([&] { return e.forward(tokens, kind, adapters.value_or(nullptr), goes_on); });
  } catch (const Error&) {
    if (is_interrupted) throw py::error_already_set();
    throw;
  }
  if (is_interrupted) throw py::error_already_set();  // the pass was quicker
  auto* owned = new std::vector<float>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<float>*>(p); });
  const auto n = static_cast<py::ssize_t>(owned->size()), rows = static_cast<py::ssize_t>(tokens.size());
  if (kind == engine::ForwardOutput::next_logprobs) return py::array_t<float>({n}, owned->data(), owner);
  return py::array_t<float>({rows, n / rows}, owned->data(), owner);
}

}  // namespace

void register_engine(py::module_& m) {
  struct Release {
    void operator()(Engine* e) const {
      const py::gil_scoped_release release;  // joins a thread that may want the GIL
      delete e;
    }
  };
  py::class_<Mailbox, std::shared_ptr<Mailbox>>(
      m, "Mailbox", "Where events of requests arrive: of one request, or of as many as one thread will read.")
      .def(py::init<>())
      .def("take", &take, py::arg("timeout_s"),
           "All events that have come, in order, as dicts; waits up to timeout_s for the first. Empty on timeout and "
           "once closed. `id` names the request, `finish` is \"\" until its last event, `error` an exception when "
           "`finish` is \"error\".")
      .def("close", &Mailbox::close, "Wakes whoever waits; later events are dropped.");
  py::class_<Engine, std::unique_ptr<Engine, Release>>(
      m, "Engine", "Runs requests on a model in one thread of its own. Thread-safe.")
      .def(py::init([](const std::shared_ptr<model::Weights>& weights, int n_threads, int64_t n_ctx, int64_t kv_tokens,
                       const std::string& k_type, const std::string& v_type, int64_t n_batch, int64_t max_sequences,
                       int64_t max_waiting, bool prefix_cache, bool prompt_lookup, int64_t max_drafts,
                       const std::optional<std::shared_ptr<model::Weights>>& draft_model,
                       const std::vector<py::bytes>& token_bytes) {
             engine::EngineOptions options;
             options.n_threads = n_threads;
             options.n_ctx = n_ctx;
             options.kv_tokens = kv_tokens;
             options.k_type = kv_type(k_type);
             options.v_type = kv_type(v_type);
             options.n_batch = n_batch;
             options.max_sequences = max_sequences;
             options.max_waiting = max_waiting;
             options.prefix_cache = prefix_cache;
             options.prompt_lookup = prompt_lookup;
             options.max_drafts = max_drafts;
             for (const py::bytes& bytes : token_bytes) options.token_bytes.emplace_back(std::string_view(bytes));
             const py::gil_scoped_release release;
             return std::unique_ptr<Engine, Release>(
                 new Engine(weights, std::move(options), draft_model.value_or(nullptr)));
           }),
           py::arg("model"), py::kw_only(), py::arg("n_threads") = 0, py::arg("n_ctx") = 0, py::arg("kv_tokens") = 0,
           py::arg("k_type") = "f16", py::arg("v_type") = "f16", py::arg("n_batch") = 512,
           py::arg("max_sequences") = 64, py::arg("max_waiting") = 0, py::arg("prefix_cache") = true,
           py::arg("prompt_lookup") = true, py::arg("max_drafts") = 8, py::arg("draft_model") = py::none(),
           py::arg("token_bytes") = std::vector<py::bytes>())
      .def("submit", &submit, py::arg("prompt"), py::arg("params"), py::arg("mailbox"), py::kw_only(),
           py::arg("max_tokens") = -1, py::arg("min_tokens") = 0, py::arg("stop_tokens") = std::vector<int32_t>(),
           py::arg("stop_strings") = std::vector<py::bytes>(), py::arg("include_stop") = false,
           py::arg("overflow") = "error", py::arg("n_keep") = 0, py::arg("priority") = 0, py::arg("client") = "",
           py::arg("prompt_logprobs") = false, py::arg("beam_width") = 1, py::arg("n_hypotheses") = 1,
           py::arg("length_penalty") = 1.0, py::arg("early_stopping") = false, py::arg("processors") = py::list(),
           py::arg("mask_function") = py::none(), py::arg("adapters") = py::none(),
           "Queues a request whose events go to the mailbox; returns (id, seed used).")
      .def("cancel", &Engine::cancel, py::arg("id"), "Ends a request within one step. Unknown ids are ignored.")
      .def("forward", &forward, py::arg("tokens"), py::arg("output") = "logits", py::arg("adapters") = py::none(),
           "Runs tokens through an empty sequence: logits (n, n_vocab), hidden (n, n_embd) or next_logprobs (n - 1), "
           "float32.")
      .def(
          "close", [](Engine& e) { without_lock([&] { e.close(); }); },
          "Cancels what runs and ends the thread; later calls raise CancelledError. Idempotent.")
      .def("check_integrity", [](Engine& e) { without_lock([&] { e.check_integrity(); }); })
      .def_property_readonly("options",
                             [](const Engine& e) {
                               const engine::EngineOptions& o = e.options();
                               py::dict out;
                               out["n_threads"] = o.n_threads;
                               out["n_ctx"] = o.n_ctx;
                               out["kv_tokens"] = o.kv_tokens;
                               out["k_type"] = std::string(ops::kv_type_name(o.k_type));
                               out["v_type"] = std::string(ops::kv_type_name(o.v_type));
                               out["n_batch"] = o.n_batch;
                               out["max_sequences"] = o.max_sequences;
                               out["max_waiting"] = o.max_waiting;
                               out["prefix_cache"] = o.prefix_cache;
                               out["prompt_lookup"] = o.prompt_lookup;
                               out["max_drafts"] = o.max_drafts;
                               return out;
                             })
      .def("stats", [](const Engine& e) {
        const engine::EngineStats s = e.stats();
        py::dict out;
        out["n_running"] = s.n_running;
        out["n_waiting"] = s.n_waiting;
        out["n_blocks"] = s.n_blocks;
        out["n_blocks_free"] = s.n_blocks_free;
        out["n_blocks_cached"] = s.n_blocks_cached;
        out["n_steps"] = s.n_steps;
        out["n_prompt_tokens"] = s.n_prompt_tokens;
        out["n_generated_tokens"] = s.n_generated_tokens;
        out["n_preemptions"] = s.n_preemptions;
        out["n_drafted_tokens"] = s.n_drafted_tokens;
        out["n_accepted_tokens"] = s.n_accepted_tokens;
        out["prefill_seconds"] = s.prefill_seconds;
        out["decode_seconds"] = s.decode_seconds;
        return out;
      });
}

}  // namespace halfbyte::bindings
