// Phi-1, 1.5 and 2: attention and MLP side by side behind one layer norm, partial rope, biases everywhere.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch phi2 = {
    .name = "phi2",
    .norm = ops::NormKind::layer,
    .norm_places = NormPlaces::parallel,
    .activation = ops::Activation::gelu_tanh,
    .gated_mlp = false,
};

}  // namespace halfbyte::model::archs
