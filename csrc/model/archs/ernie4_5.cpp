// ERNIE 4.5: the llama layer, whose folders hold adjacent pairs as they are.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch ernie4_5 = {.name = "ernie4_5", .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
