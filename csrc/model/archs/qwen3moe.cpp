// Qwen 3 mixtures of experts (30B-A3B, 235B-A22B): the Qwen 3 layer with experts, and no shared one.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen3moe = {.name = "qwen3moe"};

}  // namespace halfbyte::model::archs
