// OLMoE: many small experts whose weights are left as they are, and RMS norms over the whole rows of q and k.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch olmoe = {.name = "olmoe", .normalize_experts = false};

}  // namespace halfbyte::model::archs
