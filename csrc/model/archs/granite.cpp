// Granite 3: the llama layer with multipliers on embeddings, attention, residuals and logits (read by name in
// config.cpp).
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch granite = {.name = "granite", .rope = ops::RopeKind::adjacent};

}  // namespace halfbyte::model::archs
