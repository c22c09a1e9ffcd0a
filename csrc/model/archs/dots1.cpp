// dots.llm1: Qwen 3's attention, and experts by sigmoids with a bias that takes part in the choice, beside shared ones.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch dots1 = {.name = "dots1", .normalize_experts = false};

}  // namespace halfbyte::model::archs
