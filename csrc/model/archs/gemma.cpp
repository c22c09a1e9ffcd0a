// Gemma 1: GeGLU and embeddings scaled by sqrt(n_embd). Converters store norm weights with the 1 added.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch gemma = {
    .name = "gemma",
    .activation = ops::Activation::gelu_tanh,
    .scale_embedding_by_sqrt_dim = true,
};

}  // namespace halfbyte::model::archs
