// Hunyuan 0.5B to 7B: the llama layer with norms on each head's q and k, after rope.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch hunyuan_dense = {.name = "hunyuan-dense", .norm_heads_after_rope = true};

}  // namespace halfbyte::model::archs
