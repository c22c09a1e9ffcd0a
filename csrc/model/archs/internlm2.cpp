// InternLM 2 and 2.5: the llama layer.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch internlm2 = {.name = "internlm2", .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
