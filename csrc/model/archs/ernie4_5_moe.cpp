// ERNIE 4.5 mixtures of experts (21B-A3B, 300B-A47B): a bias takes part in the choice of experts; shared experts.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch ernie4_5_moe = {.name = "ernie4_5-moe", .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
