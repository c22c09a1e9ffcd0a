// Uploads a step's inputs with one copy, and replays steps that repeat as graphs.
#include "cuda/session.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "cuda/device.h"

namespace halfbyte::cuda {

namespace {

// Recorded steps are small; this many cover every batch size of a busy server.
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
  if (arena.host.size() >= n_bytes) return;
  check(cudaStreamSynchronize(stream_), "waiting for a step");
  if (&arena == &step_) forget_recordings();  // they read from where it was
  const size_t capacity = arena_capacity(n_bytes);
  arena = {};
  arena.device = device_memory().allocate(capacity, "A step's inputs");
  arena.host = allocate_pinned(capacity);
}

template <class T>
const T* Session::put(Arena& arena, std::span<const T> values) {
  const auto* at = reinterpret_cast<const T*>(arena.device.data() + arena.used);
  if (!values.empty()) std::memcpy(arena.host.data() + arena.used, values.data(), values.size_bytes());
  arena.used += aligned(values.size_bytes());
  return at;
}

const Span* Session::put_spans(Arena& arena, std::span<const ops::AttentionSpan> spans) {
  auto* host = reinterpret_cast<Span*>(arena.host.data() + arena.used);
  const auto* device = reinterpret_cast<const Span*>(arena.device.data() + arena.used);
  arena.used += aligned(spans.size() * sizeof(Span));
  int64_t n_decode_rows = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const ops::AttentionSpan& s = spans[i];
    const bool is_decode = s.role == ops::Role::decode;
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
  check(cudaMemcpyAsync(arena.device.data(), arena.host.data(), arena.used, cudaMemcpyHostToDevice, stream_),
        "uploading a step's inputs");
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
  check(cudaStreamSynchronize(stream_), "waiting for an op");  // it may still read the last one
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
  check(cudaStreamSynchronize(stream_), "waiting for an op");
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
  check(cudaStreamSynchronize(stream_), "waiting for the last step");  // its inputs are overwritten now
  inputs_ = inputs;
  make_room(step_, arena_bytes(inputs));
  positions_ = put(step_, inputs.positions);
  slots_ = put(step_, inputs.slots);
  picked_ = put(step_, inputs.picked);
  spans_ = put_spans(step_, inputs.spans);
  upload(step_);
  mode_ = Mode::eager;
  if (inputs.key == 0) return false;
  // The first run of a kind of step is an ordinary one: it brings every buffer to its size. The second is recorded.
  key_ = inputs.key * 1099511628211u ^ static_cast<uint64_t>(n_chunks(inputs.spans));
  if (recordings_.size() >= kMostRecordings && !recordings_.contains(key_)) forget_recordings();
  Recording& r = recordings_[key_];
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
  cudaGraphExec_t ready = nullptr;
  if (mode == Mode::recording) {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream_, &graph);
    device_mutex().unlock();
    if (!is_complete) {
      if (graph != nullptr) (void)cudaGraphDestroy(graph);
      return;
    }
    check(status, "recording a step");
    const cudaError_t made = cudaGraphInstantiate(&ready, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(made, "preparing a recorded step");
    recordings_[key_].graph = ready;
  } else if (mode == Mode::replaying && is_complete) {
    ready = recordings_[key_].graph;
  }
  if (ready != nullptr) check(cudaGraphLaunch(ready, stream_), "replaying a step");
}

void Session::forget_recordings() {
  for (const auto& [key, r] : recordings_) {
    if (r.graph != nullptr) (void)cudaGraphExecDestroy(r.graph);
  }
  recordings_.clear();
}

}  // namespace halfbyte::cuda
