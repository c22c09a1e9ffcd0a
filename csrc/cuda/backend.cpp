// The CUDA backend's op table.
#include "cuda/attention.h"
#include "cuda/cuda.h"
#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "cuda/experts.h"
#include "cuda/heads.h"
#include "cuda/likely.h"
#include "cuda/linear.h"
#include "cuda/pack.h"

namespace halfbyte::cuda {

namespace {

const ops::Ops& device_ops() {
  static const ops::Ops table = [] {
    ops::Ops o;
    o.name = "cuda";
    o.memory = &device_memory();
    o.begin_step = [](const ops::Context& c, const ops::StepInputs& inputs) {
      return session_of(c).begin_step(inputs);
    };
    o.end_step = [](const ops::Context& c, bool is_complete) { session_of(c).end_step(is_complete); };
    o.create_scratch = [](ThreadPool&) -> void* { return new Session; };
    o.destroy_scratch = [](void* scratch) { delete static_cast<Session*>(scratch); };
    o.pack = pack;
    o.embed = embed;
    o.linear = linear;
    o.linear_glu = linear_glu;
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
    o.norm_add = norm_add;
    o.store_heads = store_heads;
    o.likely = likely;
    return o;
  }();
  return table;
}

}  // namespace

}  // namespace halfbyte::cuda

extern "C" __attribute__((visibility("default"))) const halfbyte::cuda::DeviceFacts* halfbyte_cuda(int interface) {
  using namespace halfbyte::cuda;
  if (interface != kInterface) return nullptr;
  static const DeviceFacts facts = [] {
    const Device& d = device();
    DeviceFacts f;
    f.name = d.name.c_str();
    f.problem = d.problem.c_str();
    f.capability = d.capability;
    f.memory_bytes = d.total_bytes;
    if (!d.name.empty()) f.ops = &device_ops();
    return f;
  }();
  return &facts;
}
