// Falcon 7B and 40B: attention and MLP side by side; the 40B norms attention's input apart (attn_norm_2).
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch falcon = {
    .name = "falcon",
    .norm = ops::NormKind::layer,
    .norm_places = NormPlaces::parallel,
    .activation = ops::Activation::gelu,
    .gated_mlp = false,
};

}  // namespace halfbyte::model::archs
