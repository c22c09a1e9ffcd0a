// The ladder: a level's table is the one below it, overridden by what the level does better.
#include "base/error.h"
#include "cpu/backend.h"
#include "cpu/cpu.h"
#include "cpu/pack.h"

namespace halfbyte::cpu {

namespace {

constexpr int kLevels = 5;

Kernels kernels_of(CpuLevel level) {
  Kernels kernels;
#if defined(__x86_64__)
  if (level >= CpuLevel::avx2) fill_avx2(kernels);
  if (level == CpuLevel::avx_vnni) fill_avx_vnni(kernels);
  if (level >= CpuLevel::avx512) fill_avx512(kernels);
#endif
  return kernels;
}

// Context::scratch must know its level: create_scratch is a plain function pointer, so each level has its own.
template <int level>
const Kernels& level_kernels() {
  static const Kernels kernels = kernels_of(static_cast<CpuLevel>(level));
  return kernels;
}

template <int level>
const ops::Ops& level_ops() {
  static const ops::Ops table = [] {
    ops::Ops o;
    o.name = level_kernels<level>().name;
    o.memory = &ops::host_memory();
    o.create_scratch = [](ThreadPool& pool) -> void* {
      return new Backend{level_kernels<level>(), Scratch(pool.size())};
    };
    o.destroy_scratch = [](void* scratch) { delete static_cast<Backend*>(scratch); };
    o.pack = pack;
    o.embed = embed;
    o.linear = linear;
    o.linear_glu = linear_glu;
    o.norm = norm;
    o.rope = rope;
    o.store_kv = store_kv;
    o.attention = attention;
    o.pick_rows = ops::reference_ops().pick_rows;
    o.glu = glu;
    o.add = add;
    o.softcap = softcap;
    return o;
  }();
  return table;
}

}  // namespace

// 512 bytes of codes and four vectors of numbers a block of 32 columns (kernels/matmul.h).
int64_t panel_workspace_bytes(int64_t n_cols) {
  return n_cols / 32 * (512 + 4 * 64);
}

const ops::Ops& cpu_ops(CpuLevel level) {
  static_assert(static_cast<int>(CpuLevel::amx) + 1 == kLevels);
  switch (level) {
    case CpuLevel::reference:
      return ops::reference_ops();
    case CpuLevel::avx2:
      return level_ops<static_cast<int>(CpuLevel::avx2)>();
    case CpuLevel::avx_vnni:
      return level_ops<static_cast<int>(CpuLevel::avx_vnni)>();
    case CpuLevel::avx512:
    case CpuLevel::amx:
      return level_ops<static_cast<int>(CpuLevel::avx512)>();
  }
  return ops::reference_ops();
}

const ops::Ops& cpu_ops() {
  return cpu_ops(cpu_level());
}

}  // namespace halfbyte::cpu
