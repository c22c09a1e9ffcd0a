// Nemotron and Minitron: layer norms (files store their weights with the 1 added), squared ReLU, partial rope.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch nemotron = {
    .name = "nemotron",
    .norm = ops::NormKind::layer,
    .activation = ops::Activation::relu_squared,
    .gated_mlp = false,
};

}  // namespace halfbyte::model::archs
