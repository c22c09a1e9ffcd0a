// Qwen 3: the llama layer with RMS norms on each head's q and k (found in the file).
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch qwen3 = {.name = "qwen3"};

}  // namespace halfbyte::model::archs
