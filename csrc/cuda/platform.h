// The few hardware operations that kernels use, so that everything else is plain C++: warp collectives, tensor-core
// products, streaming loads, launches. A host compiler takes them from an emulation (tests/cuda/emulation) instead.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace halfbyte::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// Throws Error(io) that names the failed call.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(ErrorKind::io, format_string("CUDA: %s failed: %s.", what, cudaGetErrorString(status)),
              "Run `halfbyte doctor`; if the driver is sound, use the CPU with -ngl 0.");
}

}  // namespace halfbyte::cuda

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace halfbyte::cuda {

__device__ inline float half_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ inline uint16_t float_to_half(float x) {
  return __half_as_ushort(__float2half_rn(x));
}
__device__ inline uint16_t float_to_bfloat(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ inline float bits_to_float(uint32_t bits) {
  return __uint_as_float(bits);
}
__device__ inline uint32_t float_to_bits(float x) {
  return __float_as_uint(x);
}

// Sixteen bytes of weights: read once a step, so they should not push anything else out of the first-level cache.
__device__ inline uint4 load_streaming(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// Sixteen bytes from global into shared memory without passing through registers, so that many are on their way at
// once. They are there, for the thread that asked, after wait_for_copies(). Before 8.0: an ordinary copy.
__device__ inline void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

__device__ inline float shuffle_xor(float x, int mask) {
  return __shfl_xor_sync(kAllLanes, x, mask);
}
__device__ inline int shuffle_xor(int x, int mask) {
  return __shfl_xor_sync(kAllLanes, x, mask);
}
__device__ inline uint32_t ballot(bool x) {
  return __ballot_sync(kAllLanes, x);
}
__device__ inline int count_bits(uint32_t x) {
  return __popc(x);
}

// c += a (16 x 16, row) . b (16 x 8, column) for 8-bit codes: a[0] row g, a[1] row g + 8, columns 4t .. 4t+3; b column
// g, rows 4t .. 4t+3; c[0], c[1] row g, columns 2t, 2t + 1; c[2], c[3] row g + 8 (g = lane / 4, t = lane % 4).
template <bool kSigned>
__device__ inline void mma_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kSigned) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
  }
#else
  if constexpr (kSigned) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a0), "r"(b));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a1), "r"(b));
  } else {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a0), "r"(b));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a1), "r"(b));
  }
#endif
}

// The same over 32 columns: a[2], a[3] and b[1] hold columns 16 + 4t .. 16 + 4t + 3.
template <bool kSigned>
__device__ inline void mma_k32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kSigned) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  mma_k16<kSigned>(c, a[0], a[1], b0);
  mma_k16<kSigned>(c, a[2], a[3], b1);
#endif
}

// c += a (16 x 16, row) . b (16 x 8, column) for f16 pairs: a[0] row g, a[1] row g + 8, columns 2t, 2t + 1; a[2], a[3]
// columns 2t + 8, 2t + 9; b0 column g, rows 2t, 2t + 1; b1 rows 2t + 8, 2t + 9; c as above.
__device__ inline void mma_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// The same for bf16 pairs. Matrices in bf16 are never packed as such for devices below 8.0 (pack.cpp).
__device__ inline void mma_bfloat(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices of 16-bit numbers out of shared memory, transposed: lane i names row i % 8 of matrix i / 8, and
// receives elements (2t, g) and (2t + 1, g) of each.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const uint16_t* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The block's dynamic shared memory.
__device__ inline std::byte* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<std::byte*>(bytes);
}

template <class... Parameters, class... Arguments>
void launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "starting a kernel");
}

}  // namespace halfbyte::cuda

#elif defined(HALFBYTE_CUDA_EMULATION)

#include <cuda_emulation.h>

#endif
