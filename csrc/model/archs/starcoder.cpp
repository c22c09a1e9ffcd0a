// StarCoder 1 and SantaCoder: GPT-2 with one head of keys and values.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch starcoder = {
    .name = "starcoder",
    .norm = ops::NormKind::layer,
    .activation = ops::Activation::gelu_tanh,
    .gated_mlp = false,
    .positions = PositionKind::learned,
};

}  // namespace halfbyte::model::archs
