// Phi-3, 3.5 and 4: the llama layer with fused q/k/v and gate/up matrices, LongRoPE, and a window in every layer.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch phi3 = {.name = "phi3"};

}  // namespace halfbyte::model::archs
