// Hunyuan A13B: Hunyuan's layer with experts, of which one is shared.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch hunyuan_moe = {.name = "hunyuan-moe", .norm_heads_after_rope = true};

}  // namespace halfbyte::model::archs
