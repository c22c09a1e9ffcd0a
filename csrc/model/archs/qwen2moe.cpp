// Qwen 1.5 and 2 mixtures of experts: a shared expert with a gate of its own; the others' weights are left as they are.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen2moe = {.name = "qwen2moe", .normalize_experts = false};

}  // namespace halfbyte::model::archs
