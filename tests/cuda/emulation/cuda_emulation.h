// A CUDA block on the host: each thread is a fiber, warps meet at their collectives, blocks run one after another.
//
// Collectives follow the PTX manual's register layouts element by element, so that a kernel's index arithmetic is
// tested in full; only timing and the hardware's own rounding differ.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <bit>
#include <deque>
#include <mutex>
#include <tuple>

#include "base/half.h"

namespace emulation {

inline constexpr size_t kStackBytes = 64 << 10;

// A meeting place: operands of those who have come; the last one to come computes for all.
struct Meeting {
  int n_arrived = 0;
  uint64_t generation = 0;
  const void* operands[1024];
};

// Runs body after body. It is entered once by a context of its own; from then on it and its scheduler jump, which
// unlike a change of context asks nothing of the system.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  std::vector<std::byte> stack = std::vector<std::byte>(kStackBytes);
  bool is_entered = false, is_done = false;
  std::vector<std::pair<void*, const void*>> copies;  // asked for, not waited for yet
};

struct Block {
  std::deque<Fiber> fibers;  // stay where they are
  ucontext_t entering;
  jmp_buf scheduler;
  int current = 0, n_alive = 0;
  Meeting barrier, warps[32];
  std::vector<std::byte> shared;
  std::function<void()> body;
  dim3 grid_size, block_size, block_index, thread_index;
};

inline Block& block() {
  static Block b;
  return b;
}

inline void yield_fiber() {
  Block& b = block();
  const dim3 mine = b.thread_index;
  const int index = b.current;
  if (_setjmp(b.fibers[static_cast<size_t>(index)].place) == 0) _longjmp(b.scheduler, 1);
  b.current = index;
  b.thread_index = mine;
}

// Leaves `operand` with the others; the last of `n` computes; all return when it is done.
template <class Compute>
void meet(Meeting& m, int n, int member, const void* operand, const Compute& compute) {
  m.operands[member] = operand;
  const uint64_t generation = m.generation;
  if (++m.n_arrived == n) {
    compute(m.operands);
    m.n_arrived = 0;
    ++m.generation;
    return;
  }
  while (m.generation == generation) yield_fiber();
}

inline void run_fiber() {
  for (;;) {
    Block& b = block();
    b.body();
    Fiber& f = b.fibers[static_cast<size_t>(b.current)];
    f.is_done = true;
    --b.n_alive;
    if (_setjmp(f.place) == 0) _longjmp(b.scheduler, 1);
  }
}

// Runs a fiber until it yields or is done.
inline void resume(Fiber& f) {
  Block& b = block();
  if (_setjmp(b.scheduler) != 0) return;
  if (f.is_entered) _longjmp(f.place, 1);
  f.is_entered = true;
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.data();
  f.context.uc_stack.ss_size = f.stack.size();
  f.context.uc_link = nullptr;
  makecontext(&f.context, run_fiber, 0);
  swapcontext(&b.entering, &f.context);
}

inline void run_blocks(dim3 grid, dim3 size, size_t shared_bytes, std::function<void()> body) {
  Block& b = block();
  b.grid_size = grid;
  b.block_size = size;
  b.body = std::move(body);
  const int n_threads = static_cast<int>(size.x * size.y * size.z);
  while (static_cast<int>(b.fibers.size()) < n_threads) b.fibers.emplace_back();
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        b.block_index = dim3(x, y, z);
        b.shared.assign(shared_bytes + 16, std::byte{0xff});
        b.barrier.n_arrived = 0;
        for (Meeting& m : b.warps) m.n_arrived = 0;
        b.n_alive = n_threads;
        for (int i = 0; i < n_threads; ++i) {
          Fiber& f = b.fibers[static_cast<size_t>(i)];
          f.is_done = false;
          f.copies.clear();
        }
        while (b.n_alive > 0) {
          for (int i = 0; i < n_threads; ++i) {
            Fiber& f = b.fibers[static_cast<size_t>(i)];
            if (f.is_done) continue;
            b.current = i;
            b.thread_index = dim3(static_cast<unsigned>(i) % size.x, static_cast<unsigned>(i) / size.x % size.y,
                                  static_cast<unsigned>(i) / size.x / size.y);
            resume(f);
          }
        }
      }
    }
  }
}

// What every device says of a launch that it cannot make: grids and blocks too large or empty, more shared memory than
// a kernel has without asking, a stream of another device than the thread's.
inline cudaError_t refusal(cudaStream_t stream, dim3 grid, dim3 size, size_t shared_bytes) {
  if (stream->device != current_device()) return cudaErrorInvalidResourceHandle;
  const size_t n_blocks = size_t{grid.x} * grid.y * grid.z, n_threads = size_t{size.x} * size.y * size.z;
  const bool is_possible = n_blocks > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 &&
                           n_threads > 0 && n_threads <= 1024 && shared_bytes <= size_t{48} << 10;
  return is_possible ? cudaSuccess : cudaErrorInvalidConfiguration;
}

inline int lane() {
  return block().current % 32;
}
template <class Compute>
void meet_warp(const void* operand, const Compute& compute) {
  meet(block().warps[block().current / 32], 32, lane(), operand, compute);
}

}  // namespace emulation

#define threadIdx (::emulation::block().thread_index)
#define blockIdx (::emulation::block().block_index)
#define blockDim (::emulation::block().block_size)
#define gridDim (::emulation::block().grid_size)

inline void __syncthreads() {
  emulation::Block& b = emulation::block();
  emulation::meet(b.barrier, static_cast<int>(b.block_size.x * b.block_size.y * b.block_size.z), b.current, nullptr,
                  [](const void**) {});
}
inline void __syncwarp() {
  emulation::meet_warp(nullptr, [](const void**) {});
}

namespace halfbyte::cuda {

inline float half_to_float(uint16_t bits) {
  return f16_to_f32(bits);
}
inline uint16_t float_to_half(float x) {
  return f32_to_f16(x);
}
inline uint16_t float_to_bfloat(float x) {
  return f32_to_bf16(x);
}
inline float bits_to_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t float_to_bits(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline uint4 load_streaming(const uint4* p) {
  return *p;
}

// Copies happen as late as they may: when the thread waits for them.
inline void copy_async(void* shared, const void* global) {
  emulation::Block& b = emulation::block();
  b.fibers[static_cast<size_t>(b.current)].copies.emplace_back(shared, global);
}
inline void wait_for_copies() {
  emulation::Block& b = emulation::block();
  auto& copies = b.fibers[static_cast<size_t>(b.current)].copies;
  for (const auto& [to, from] : copies) *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  copies.clear();
}

template <class T>
T shuffle_xor(T x, int mask) {
  struct Operand {
    T in, out;
    int mask;
  } mine = {x, x, mask};
  emulation::meet_warp(&mine, [](const void** all) {
    for (int i = 0; i < 32; ++i) {
      auto* me = static_cast<Operand*>(const_cast<void*>(all[i]));
      me->out = static_cast<const Operand*>(all[i ^ me->mask])->in;
    }
  });
  return mine.out;
}

inline uint32_t ballot(bool x) {
  struct Operand {
    bool in;
    uint32_t out;
  } mine = {x, 0};
  emulation::meet_warp(&mine, [](const void** all) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(static_cast<const Operand*>(all[i])->in) << i;
    for (int i = 0; i < 32; ++i) static_cast<Operand*>(const_cast<void*>(all[i]))->out = bits;
  });
  return mine.out;
}
inline int count_bits(uint32_t x) {
  return std::popcount(x);
}

// c (16 x 8) += a (16 x k) . b (k x 8), operands gathered from lanes by `element_a(lane operand...)`.
template <class C, class Operand, class ReadA, class ReadB>
void emulate_mma(Operand& mine, int k, const ReadA& read_a, const ReadB& read_b) {
  emulation::meet_warp(&mine, [&](const void** all) {
    const auto at = [&](int i) { return static_cast<Operand*>(const_cast<void*>(all[i])); };
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < 8; ++col) {
        C& sum = at(row % 8 * 4 + col / 2)->c[row / 8 * 2 + col % 2];
        for (int i = 0; i < k; ++i) sum += static_cast<C>(read_a(at, row, i)) * static_cast<C>(read_b(at, i, col));
      }
    }
  });
}

template <bool kSigned>
void mma_k32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operand {
    int c[4];
    uint32_t a[4], b[2];
  } mine = {{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulate_mma<int>(
      mine, 32,
      [](const auto& at, int row, int i) {
        const uint32_t word = at(row % 8 * 4 + i % 16 / 4)->a[i / 16 * 2 + row / 8];
        const auto byte = static_cast<uint8_t>(word >> 8 * (i % 4));
        return kSigned ? static_cast<int>(static_cast<int8_t>(byte)) : static_cast<int>(byte);
      },
      [](const auto& at, int i, int col) {
        return static_cast<int>(static_cast<int8_t>(at(col * 4 + i % 16 / 4)->b[i / 16] >> 8 * (i % 4)));
      });
  for (int i = 0; i < 4; ++i) c[i] = mine.c[i];
}

template <bool kSigned>
void mma_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  struct Operand {
    int c[4];
    uint32_t a[2], b;
  } mine = {{c[0], c[1], c[2], c[3]}, {a0, a1}, b};
  emulate_mma<int>(
      mine, 16,
      [](const auto& at, int row, int i) {
        const auto byte = static_cast<uint8_t>(at(row % 8 * 4 + i / 4)->a[row / 8] >> 8 * (i % 4));
        return kSigned ? static_cast<int>(static_cast<int8_t>(byte)) : static_cast<int>(byte);
      },
      [](const auto& at, int i, int col) {
        return static_cast<int>(static_cast<int8_t>(at(col * 4 + i / 4)->b >> 8 * (i % 4)));
      });
  for (int i = 0; i < 4; ++i) c[i] = mine.c[i];
}

template <class Convert>
void emulate_mma_16bit(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Convert& convert) {
  struct Operand {
    float c[4];
    uint32_t a[4], b[2];
  } mine = {{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulate_mma<float>(
      mine, 16,
      [&](const auto& at, int row, int i) {
        return convert(static_cast<uint16_t>(at(row % 8 * 4 + i % 8 / 2)->a[i / 8 * 2 + row / 8] >> 16 * (i % 2)));
      },
      [&](const auto& at, int i, int col) {
        return convert(static_cast<uint16_t>(at(col * 4 + i % 8 / 2)->b[i / 8] >> 16 * (i % 2)));
      });
  for (int i = 0; i < 4; ++i) c[i] = mine.c[i];
}
inline void mma_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate_mma_16bit(c, a, b0, b1, f16_to_f32);
}
inline void mma_bfloat(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate_mma_16bit(c, a, b0, b1, bf16_to_f32);
}

inline void load_matrices_transposed(uint32_t (&r)[4], const uint16_t* row) {
  struct Operand {
    const uint16_t* row;
    uint32_t r[4];
  } mine = {row, {}};
  emulation::meet_warp(&mine, [](const void** all) {
    const auto at = [&](int i) { return static_cast<Operand*>(const_cast<void*>(all[i])); };
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const int t = lane % 4, g = lane / 4;
        at(lane)->r[m] = at(8 * m + 2 * t)->row[g] | static_cast<uint32_t>(at(8 * m + 2 * t + 1)->row[g]) << 16;
      }
    }
  });
  for (int i = 0; i < 4; ++i) r[i] = mine.r[i];
}

inline std::byte* shared_memory() {
  const auto address = reinterpret_cast<uintptr_t>(emulation::block().shared.data());
  return reinterpret_cast<std::byte*>((address + 15) / 16 * 16);
}

template <class... Parameters, class... Arguments>
void launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  check(emulation::refusal(stream, grid, block, shared_bytes), "starting a kernel");
  const std::tuple<Parameters...> held(arguments...);
  stream->submit([=, device = stream->device] {
    ++emulation::n_launches;
    const emulation::Access access(device);
    emulation::run_blocks(grid, block, shared_bytes, [&] { std::apply(kernel, held); });
  });
}

}  // namespace halfbyte::cuda
