// The CUDA backend's op tables, one for each device.
#include <utility>
#include <vector>

#include "cuda/attention.h"
#include "cuda/cuda.h"
#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "cuda/experts.h"
#include "cuda/heads.h"
#include "cuda/likely.h"
#include "cuda/linear.h"
#include "cuda/pack.h"
#include "cuda/streams.h"

namespace halfbyte::cuda {

namespace {

// Ops with a context find their device in its session (session_of()).
template <int kIndex>
const ops::Ops* device_ops() {
  static const ops::Ops table = [] {
    ops::Ops o;
    o.name = "cuda";
    o.memory = &memory_of(kIndex);
    o.begin_step = [](const ops::Context& c, const ops::StepInputs& inputs) {
      return session_of(c).begin_step(inputs);
    };
    o.end_step = [](const ops::Context& c, bool is_complete) { session_of(c).end_step(is_complete); };
    o.create_scratch = [](ThreadPool&) -> void* {
      use_device(kIndex);
      return new Session;
    };
    o.destroy_scratch = [](void* scratch) {
      use_device(kIndex);
      delete static_cast<Session*>(scratch);
    };
    o.pack = [](const ops::MatrixSource& source, bool keep_raw, ThreadPool& pool) {
      use_device(kIndex);
      return pack(source, keep_raw, pool);
    };
    o.packed_bytes = [](const formats::Format& format, int64_t n_rows, int64_t n_cols) {
      use_device(kIndex);
      return packed_bytes(format, n_rows, n_cols);
    };
    o.finish_packing = [] {
      use_device(kIndex);
      finish_packing();
    };
    o.scratch_bytes = [](const ops::StepShape& shape) {
      use_device(kIndex);
      return Session::reserved_bytes(shape);
    };
    o.reserve_scratch = [](const ops::Context& c, const ops::StepShape& shape) { session_of(c).reserve(shape); };
    o.embed = embed;
    o.linear = linear;
    o.linear_glu = linear_glu;
    o.most_head_dim = kMostKeyDim;
    o.route = route;
    o.expert_glu = expert_glu;
    o.expert_sum = expert_sum;
    o.norm = norm;
    o.rope = rope;
    o.store_kv = store_kv;
    o.attention = attention;
    o.pick_rows = pick_rows;
    o.glu = glu;
    o.add = add;
    o.softcap = softcap;
    o.mix = mix;
    o.match_size = match_size;
    o.cut = cut;
    o.norm_add = norm_add;
    o.store_heads = store_heads;
    o.likely = likely;
    return o;
  }();
  return &table;
}

template <int... kIndexes>
std::vector<DeviceFacts> make_facts(std::integer_sequence<int, kIndexes...>) {
  const ops::Ops* const tables[] = {device_ops<kIndexes>()...};
  std::vector<DeviceFacts> facts;
  for (const Device& d : found().devices)
    facts.push_back({d.name.c_str(), d.capability, d.total_bytes, tables[facts.size()]});
  return facts;
}

}  // namespace

}  // namespace halfbyte::cuda

extern "C" __attribute__((visibility("default"))) const halfbyte::cuda::Devices* halfbyte_cuda(int interface) {
  using namespace halfbyte::cuda;
  if (interface != kInterface) return nullptr;
  static const std::vector<DeviceFacts> facts = make_facts(std::make_integer_sequence<int, kMostDevices>());
  static const Devices devices = {found().problem.c_str(), static_cast<int>(facts.size()), facts.data()};
  return &devices;
}
