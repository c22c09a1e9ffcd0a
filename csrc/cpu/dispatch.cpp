// The ladder: a level's table is the one below it, overridden by what the level does better.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "cpu/backend.h"
#include "cpu/cpu.h"
#include "cpu/pack.h"

namespace halfbyte::cpu {

namespace {

Kernels kernels_of(CpuLevel level) {
  Kernels kernels;
#if defined(__x86_64__)
  if (level >= CpuLevel::avx2) fill_avx2(kernels);
  if (level == CpuLevel::avx_vnni) fill_avx_vnni(kernels);
  if (level >= CpuLevel::avx512) fill_avx512(kernels);
  if (level >= CpuLevel::amx) fill_amx(kernels);
#elif defined(__aarch64__)
  if (level == CpuLevel::neon) fill_neon(kernels);
  if (level == CpuLevel::neon_dotprod) fill_neon_dotprod(kernels);
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
    o.route = ops::reference_ops().route;
    o.expert_glu = expert_glu;
    o.expert_sum = expert_sum;
    o.norm = norm;
    o.rope = rope;
    o.store_kv = store_kv;
    o.attention = attention;
    o.pick_rows = ops::reference_ops().pick_rows;
    o.glu = glu;
    o.add = add;
    o.softcap = softcap;
    o.mix = mix;
    o.match_size = match_size;
    o.cut = cut;
    return o;
  }();
  return table;
}

}  // namespace

double dot_rate(CpuLevel level, int n_threads) {
  constexpr int64_t kRounds = 1 << 18;
  const Kernels kernels = kernels_of(level);
  if (kernels.dot_rounds == nullptr) return 0;
  ThreadPool pool(n_threads);
  std::vector<int64_t> sums(static_cast<size_t>(n_threads));
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    std::atomic<int64_t> total = 0;
    pool.parallel_for(8 * n_threads, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t n_products = 0;
        sums[static_cast<size_t>(worker)] += kernels.dot_rounds(kRounds / 8, &n_products);
        total += n_products;
      }
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * static_cast<double>(total) / seconds);
  }
  return best;
}

const ops::Ops& cpu_ops(CpuLevel level) {
  switch (level) {
    case CpuLevel::reference:
      return ops::reference_ops();
    case CpuLevel::avx2:
      return level_ops<static_cast<int>(CpuLevel::avx2)>();
    case CpuLevel::avx_vnni:
      return level_ops<static_cast<int>(CpuLevel::avx_vnni)>();
    case CpuLevel::avx512:
      return level_ops<static_cast<int>(CpuLevel::avx512)>();
    case CpuLevel::amx:
      return level_ops<static_cast<int>(CpuLevel::amx)>();
    case CpuLevel::neon:
      return level_ops<static_cast<int>(CpuLevel::neon)>();
    case CpuLevel::neon_dotprod:
      return level_ops<static_cast<int>(CpuLevel::neon_dotprod)>();
  }
  return ops::reference_ops();
}

const ops::Ops& cpu_ops() {
  return cpu_ops(cpu_level());
}

}  // namespace halfbyte::cpu
