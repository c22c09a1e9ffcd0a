// Qwen 3 VL mixtures of experts (30B-A3B, 235B-A22B), what they say.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen3vlmoe = {.name = "qwen3vlmoe"};

}  // namespace halfbyte::model::archs
