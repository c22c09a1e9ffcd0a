// Granite 3 mixtures of experts: Granite's multipliers; some have a shared expert, which counts as it is.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch granitemoe = {
    .name = "granitemoe",
    .rope = ops::RopeKind::adjacent,
};

}  // namespace halfbyte::model::archs
