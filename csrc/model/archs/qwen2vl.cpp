// Qwen 2 and 2.5 VL, what they say: of text all three positions are the same, which makes it Qwen 2.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen2vl = {.name = "qwen2vl"};

}  // namespace halfbyte::model::archs
