// GLM-4 0414 (9B, 32B): norms before and after each block, rope on the first half of each head.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch glm4 = {.name = "glm4", .norm_places = NormPlaces::pre_and_post, .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
