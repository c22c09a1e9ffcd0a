// Llama 1 to 3.x, SmolLM2, TinyLlama, Mistral, Mixtral (by its experts), Yi: RMS norm, rope on adjacent pairs, SwiGLU.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch llama = {
    .name = "llama",
    .rope = ops::RopeKind::adjacent,  // converters permute q and k into this order
};

}  // namespace halfbyte::model::archs
