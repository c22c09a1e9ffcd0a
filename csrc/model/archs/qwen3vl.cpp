// Qwen 3 VL, what it says: of text all three positions are the same, which makes it Qwen 3.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen3vl = {.name = "qwen3vl"};

}  // namespace halfbyte::model::archs
