// Arcee AFM: the llama layer with a plain MLP of squared ReLU.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch arcee = {
    .name = "arcee",
    .activation = ops::Activation::relu_squared,
    .gated_mlp = false,
    .rope = ops::RopeKind::adjacent,
};

}  // namespace halfbyte::model::archs
