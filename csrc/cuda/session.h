// What Context::scratch points to: a stream, memory that grows, a step's inputs on the device, and recorded steps.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/operands.h"
#include "cuda/platform.h"
#include "cuda/staging.h"
#include "ops/ops.h"

namespace halfbyte::cuda {

// ops::AttentionSpan on the device.
struct Span {
  int64_t first_position;
  const int32_t* table;
  int32_t first_row, n_rows;
  int32_t is_decode;
  int32_t decode_rows_end;  // decoding rows of this span and those before it
};

// Positions that one block of a decoding attention takes: fixed, so that a row's result depends on its position alone.
inline constexpr int64_t kChunk = 128;

// A chunk count that recorded steps share: the next power of two.
int64_t rounded_chunks(int64_t n_positions);

// What an op left of its output, so that the next one need not make it: int8 operands of n_cols columns.
struct Prepared {
  const float* rows = nullptr;  // the output, rows without gaps; nullptr: nothing
  int64_t n_cols = 0;
  Operands operands;
};

class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  cudaStream_t stream() const { return stream_; }

  // Turns this thread to the session's device.
  void enter() const;

  // Memory for one purpose, kept and grown. What an earlier call of the same purpose returned stays valid as memory (a
  // recorded step may use it) until the session ends.
  enum class Purpose : uint8_t {
    codes,
    numbers,
    gated_codes,  // of what linear_glu() gives, while it reads `codes`
    gated_numbers,
    gated,
    partial,
    likely,
    expert_counts,
    expert_slots,
    expert_tiles,
    count
  };
  std::byte* scratch(Purpose purpose, int64_t n_bytes);

  // Brings all of it to the size that steps up to this shape need; before, what that will take.
  void reserve(const ops::StepShape& shape);
  static int64_t reserved_bytes(const ops::StepShape& shape);

  // Buffers for int8 operands of an op's output (n_rows, next->n_cols), which it fills; without codes where the next
  // matrix takes others.
  Operands prepare(const ops::Matrix* next, const float* rows, int64_t n_rows, int64_t n_cols, bool is_gated = false);
  // What the op before left, once.
  Prepared take_prepared() { return std::exchange(prepared_, {}); }

  // The device's copy of a step's input, found by its host address; outside of a step, uploaded on the spot.
  const int32_t* positions(const int32_t* host, int64_t n);
  const int64_t* slots(const int64_t* host, int64_t n);
  const int32_t* rows(std::span<const int32_t> host);
  const Span* spans(std::span<const ops::AttentionSpan> host);

  // Pinned memory for n rows' numbers, and their copy to `out`, which the next op finds there.
  float* stage_rows(size_t n_numbers);
  void send_rows(float* out, size_t n_numbers);

  // How many chunks the longest sequence's positions make, rounded up to a power of two within a step.
  int n_chunks(std::span<const ops::AttentionSpan> host) const;

  bool begin_step(const ops::StepInputs& inputs);
  void end_step(bool is_complete);

 private:
  // Host arrays side by side in pinned memory, and their copy on the device.
  struct Arena {
    Buffer device;
    std::byte* host = nullptr;
    size_t used = 0;
  };
  struct Recording {
    int n_runs = 0;
    uint64_t last_step = 0;
    cudaGraphExec_t graph = nullptr;
  };
  enum class Mode : uint8_t { idle, eager, recording, replaying };

  size_t arena_bytes(const ops::StepInputs& inputs) const;
  void make_room(Arena& arena, size_t n_bytes);
  static size_t arena_capacity(size_t n_bytes);
  template <class T>
  const T* put(Arena& arena, std::span<const T> values);
  const Span* put_spans(Arena& arena, std::span<const ops::AttentionSpan> spans);
  void upload(Arena& arena);
  template <class T>
  const T* put_alone(Arena& arena, std::span<const T> values);
  static int64_t recording_room();
  Recording& recording_of(uint64_t key);
  void forget_oldest_recording(bool with_graph);
  void forget_recordings();

  int device_;
  cudaStream_t stream_ = nullptr;
  std::vector<Buffer> scratch_[static_cast<int>(Purpose::count)];
  Staging staged_inputs_, staged_rows_;
  Arena step_;
  Arena alone_positions_, alone_slots_, alone_rows_, alone_spans_;  // outside of steps
  Prepared prepared_;
  ops::StepInputs inputs_;  // of the running step, and their copies
  const int32_t* positions_ = nullptr;
  const int64_t* slots_ = nullptr;
  const int32_t* picked_ = nullptr;
  const Span* spans_ = nullptr;
  Mode mode_ = Mode::idle;
  uint64_t key_ = 0, n_steps_ = 0;
  std::unordered_map<uint64_t, Recording> recordings_;
  int64_t recorded_bytes_ = 0;  // that recordings were seen to take of the device
};

// With which every op begins. What is prepared is for the op that comes next: matrix products take it before
// (linear.cpp).
inline Session& session_of(const ops::Context& context) {
  auto& session = *static_cast<Session*>(context.scratch);
  session.enter();
  (void)session.take_prepared();
  return session;
}

}  // namespace halfbyte::cuda
