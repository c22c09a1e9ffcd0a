// GPT-2: learned positions, layer norms, one fused q/k/v matrix, a plain MLP.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch gpt2 = {
    .name = "gpt2",
    .norm = ops::NormKind::layer,
    .activation = ops::Activation::gelu_tanh,
    .gated_mlp = false,
    .positions = PositionKind::learned,
};

}  // namespace halfbyte::model::archs
