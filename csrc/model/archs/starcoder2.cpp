// StarCoder2: layer norms, rope, a plain MLP, biases everywhere.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch starcoder2 = {
    .name = "starcoder2",
    .norm = ops::NormKind::layer,
    .activation = ops::Activation::gelu_tanh,
    .gated_mlp = false,
};

}  // namespace halfbyte::model::archs
