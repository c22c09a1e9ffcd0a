// Uploads a step's inputs with one copy, and replays steps that repeat as graphs.
#include "cuda/session.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "cuda/device.h"

namespace halfbyte::cuda {

namespace {

// Numbers of rows (Decoder pads them to a few) times powers of two of chunks, of a server with long contexts.
constexpr size_t kMostRecordings = 256;
constexpr size_t kAlign = 64;

size_t aligned(size_t n_bytes) {
  return (n_bytes + kAlign - 1) / kAlign * kAlign;
}

template <class T>
bool lies_in(std::span<const T> values, const T* at) {
  return std::greater_equal<>()(at, values.data()) && std::less<>()(at, values.data() + values.size());
}

int64_t table_entries(const ops::AttentionSpan& span) {
  return (span.first_position + span.n_rows - 1) / ops::kKvBlockTokens + 1;
}

}  // namespace

int64_t rounded_chunks(int64_t n_positions) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>((n_positions + kChunk - 1) / kChunk)));
}

Session::Session() : device_(current_index()) {
  check(cudaStreamCreate(&stream_), "creating a stream");
}

Session::~Session() {
  (void)cudaStreamSynchronize(stream_);
  forget_recordings();
  (void)cudaStreamDestroy(stream_);
}

void Session::enter() const {
  use_device(device_);
}

std::byte* Session::scratch(Purpose purpose, int64_t n_bytes) {
  std::vector<Buffer>& buffers = scratch_[static_cast<int>(purpose)];
  const auto needed = static_cast<size_t>(n_bytes);
  if (buffers.empty() || buffers.back().size() < needed) {
    const size_t grown = buffers.empty() ? needed : std::max(needed, 2 * buffers.back().size());
    buffers.push_back(device_memory().allocate(grown, "The GPU's work space"));
  }
  return buffers.back().data();
}

size_t Session::arena_capacity(size_t n_bytes) {
  return std::max<size_t>(size_t{1} << 16, std::bit_ceil(n_bytes));
}

Operands Session::prepare(const ops::Matrix* next, const float* rows, int64_t n_rows, int64_t n_cols, bool is_gated) {
  Kind kind;
  if (next == nullptr || next->n_cols != n_cols || !packed_kind(*next->format, kind) ||
      operand_of(kind) != OperandType::int8)
    return {};
  const OperandType type = OperandType::int8;
  std::byte* codes =
      scratch(is_gated ? Purpose::gated_codes : Purpose::codes, operand_code_bytes(type, n_rows, n_cols));
  std::byte* numbers =
      scratch(is_gated ? Purpose::gated_numbers : Purpose::numbers, operand_number_bytes(type, n_rows, n_cols));
  prepared_ = {rows, n_cols, operands_in(type, n_rows, n_cols, codes, numbers)};
  return prepared_.operands;
}

void Session::make_room(Arena& arena, size_t n_bytes) {
  arena.used = 0;
  arena.host = staged_inputs_.next_buffer(n_bytes);
  if (arena.device.size() >= n_bytes) return;
  check(cudaStreamSynchronize(stream_), "waiting for a step");
  if (&arena == &step_) forget_recordings();  // they read from where it was
  arena.device = {};
  arena.device = device_memory().allocate(arena_capacity(n_bytes), "A step's inputs");
}

template <class T>
const T* Session::put(Arena& arena, std::span<const T> values) {
  const auto* at = reinterpret_cast<const T*>(arena.device.data() + arena.used);
  if (!values.empty()) std::memcpy(arena.host + arena.used, values.data(), values.size_bytes());
  arena.used += aligned(values.size_bytes());
  return at;
}

const Span* Session::put_spans(Arena& arena, std::span<const ops::AttentionSpan> spans) {
  auto* host = reinterpret_cast<Span*>(arena.host + arena.used);
  const auto* device = reinterpret_cast<const Span*>(arena.device.data() + arena.used);
  arena.used += aligned(spans.size() * sizeof(Span));
  int64_t n_decode_rows = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const ops::AttentionSpan& s = spans[i];
    const bool is_decode = s.role == ops::Role::decode;
    if (s.first_row == spans.front().first_row) n_decode_rows = 0;  // each group of layers has spans of all rows
    n_decode_rows += is_decode ? s.n_rows : 0;
    const int32_t* table = put(arena, std::span(s.block_table, static_cast<size_t>(table_entries(s))));
    host[i] = {s.first_position,
               table,
               static_cast<int32_t>(s.first_row),
               static_cast<int32_t>(s.n_rows),
               is_decode ? 1 : 0,
               static_cast<int32_t>(n_decode_rows)};
  }
  return device;
}

void Session::upload(Arena& arena) {
  require(mode_ != Mode::recording, "An input of a recorded step that was not told when it began.");
  staged_inputs_.send(arena.device.data(), arena.used, stream_);
}

float* Session::stage_rows(size_t n_numbers) {
  return reinterpret_cast<float*>(staged_rows_.next_buffer(n_numbers * sizeof(float)));
}

void Session::send_rows(float* out, size_t n_numbers) {
  staged_rows_.send(reinterpret_cast<std::byte*>(out), n_numbers * sizeof(float), stream_);
}

size_t Session::arena_bytes(const ops::StepInputs& inputs) const {
  size_t n = aligned(inputs.positions.size_bytes()) + aligned(inputs.slots.size_bytes()) +
             aligned(inputs.picked.size_bytes()) + aligned(inputs.spans.size() * sizeof(Span));
  for (const ops::AttentionSpan& s : inputs.spans)
    n += aligned(static_cast<size_t>(table_entries(s)) * sizeof(int32_t));
  return n;
}

template <class T>
const T* Session::put_alone(Arena& arena, std::span<const T> values) {
  make_room(arena, aligned(values.size_bytes()));
  const T* at = put(arena, values);
  upload(arena);
  return at;
}

const int32_t* Session::positions(const int32_t* host, int64_t n) {
  if (mode_ != Mode::idle && host == inputs_.positions.data()) return positions_;
  return put_alone(alone_positions_, std::span(host, static_cast<size_t>(n)));
}

const int64_t* Session::slots(const int64_t* host, int64_t n) {
  if (mode_ != Mode::idle && lies_in(inputs_.slots, host)) return slots_ + (host - inputs_.slots.data());
  return put_alone(alone_slots_, std::span(host, static_cast<size_t>(n)));
}

const int32_t* Session::rows(std::span<const int32_t> host) {
  if (mode_ != Mode::idle && host.data() == inputs_.picked.data()) return picked_;
  return put_alone(alone_rows_, host);
}

const Span* Session::spans(std::span<const ops::AttentionSpan> host) {
  if (mode_ != Mode::idle && lies_in(inputs_.spans, host.data())) return spans_ + (host.data() - inputs_.spans.data());
  make_room(alone_spans_, arena_bytes({.positions = {}, .slots = {}, .spans = host, .picked = {}, .key = 0}));
  const Span* at = put_spans(alone_spans_, host);
  upload(alone_spans_);
  return at;
}

int Session::n_chunks(std::span<const ops::AttentionSpan> host) const {
  int64_t last = 0;
  for (const ops::AttentionSpan& s : host) {
    if (s.role == ops::Role::decode) last = std::max(last, s.first_position + s.n_rows - 1);
  }
  return static_cast<int>(rounded_chunks(last + 1));
}

bool Session::begin_step(const ops::StepInputs& inputs) {
  prepared_ = {};
  inputs_ = inputs;
  ++n_steps_;
  make_room(step_, arena_bytes(inputs));
  positions_ = put(step_, inputs.positions);
  slots_ = put(step_, inputs.slots);
  picked_ = put(step_, inputs.picked);
  spans_ = put_spans(step_, inputs.spans);
  upload(step_);  // behind the last step, which reads them where they come to
  mode_ = Mode::eager;
  if (inputs.key == 0) return false;
  // The first run of a kind of step is an ordinary one: it brings every buffer to its size. The second is recorded.
  key_ = inputs.key * 1099511628211u ^ static_cast<uint64_t>(n_chunks(inputs.spans));
  Recording& r = recording_of(key_);
  if (r.graph != nullptr) {
    mode_ = Mode::replaying;
    return true;
  }
  if (++r.n_runs == 1) return false;
  device_mutex().lock();  // a copy on another thread would break the recording
  const cudaError_t status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) device_mutex().unlock();
  check(status, "recording a step");
  mode_ = Mode::recording;
  return false;
}

void Session::end_step(bool is_complete) {
  const Mode mode = mode_;
  mode_ = Mode::idle;
  if (mode == Mode::replaying && is_complete)
    check(cudaGraphLaunch(recordings_[key_].graph, stream_), "replaying a step");
  if (mode != Mode::recording) return;
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream_, &graph);
  device_mutex().unlock();
  if (!is_complete) {
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    return;
  }
  check(status, "recording a step");
  if (recorded_bytes_ >= recording_room()) forget_oldest_recording(true);
  const int64_t available = device_memory().available();
  cudaGraphExec_t ready = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&ready, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(made, "preparing a recorded step");
  recordings_[key_].graph = ready;
  check(cudaGraphLaunch(ready, stream_), "replaying a step");
  recorded_bytes_ += std::max<int64_t>(0, available - device_memory().available());
}

// What is known of a kind of step. Where there are too many, the one that was not seen for longest makes room.
Session::Recording& Session::recording_of(uint64_t key) {
  if (recordings_.size() >= kMostRecordings && !recordings_.contains(key)) forget_oldest_recording(false);
  Recording& r = recordings_[key];
  r.last_step = n_steps_;
  return r;
}

// The one that was not run for longest: of those with a graph, where only they are meant.
void Session::forget_oldest_recording(bool with_graph) {
  auto oldest = recordings_.end();
  for (auto i = recordings_.begin(); i != recordings_.end(); ++i) {
    const bool is_meant = !with_graph || i->second.graph != nullptr;
    if (is_meant && (oldest == recordings_.end() || i->second.last_step < oldest->second.last_step)) oldest = i;
  }
  if (oldest == recordings_.end()) return;
  check(cudaStreamSynchronize(stream_), "waiting for a step");  // which may be the one
  if (oldest->second.graph != nullptr) (void)cudaGraphExecDestroy(oldest->second.graph);
  recordings_.erase(oldest);
}

void Session::forget_recordings() {
  for (const auto& [key, r] : recordings_) {
    if (r.graph != nullptr) (void)cudaGraphExecDestroy(r.graph);
  }
  recordings_.clear();
}

}  // namespace halfbyte::cuda
