// The reference backend's op table.
#include "ops/reference/reference.h"

namespace halfbyte::ops {

const Ops& reference_ops() {
  static const Ops table = [] {
    Ops ops;
    ops.name = "reference";
    ops.memory = &host_memory();
    ops.create_scratch = [](ThreadPool&) -> void* { return nullptr; };
    ops.destroy_scratch = [](void*) {};
    ops.pack = reference::pack;
    ops.embed = reference::embed;
    ops.linear = reference::linear;
    ops.linear_glu = reference::linear_glu;
    ops.route = reference::route;
    ops.expert_glu = reference::expert_glu;
    ops.expert_sum = reference::expert_sum;
    ops.norm = reference::norm;
    ops.rope = reference::rope;
    ops.store_kv = reference::store_kv;
    ops.attention = reference::attention;
    ops.pick_rows = reference::pick_rows;
    ops.glu = reference::glu;
    ops.add = reference::add;
    ops.softcap = reference::softcap;
    ops.mix = reference::mix;
    ops.match_size = reference::match_size;
    ops.cut = reference::cut;
    ops.likely = reference::likely;
    return ops;
  }();
  return table;
}

}  // namespace halfbyte::ops
