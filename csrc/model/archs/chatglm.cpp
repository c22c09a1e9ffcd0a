// ChatGLM 3 and GLM-4 9B: the llama layer with biases on q, k and v, fused matrices, and rope on the first half of each
// head.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch chatglm = {.name = "chatglm", .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
