// Qwen 1.5, 2 and 2.5: the llama layer with biases on q, k and v (found in the file).
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen2 = {.name = "qwen2"};

}  // namespace halfbyte::model::archs
