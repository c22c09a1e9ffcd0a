// Seed-OSS: the llama layer with biases on q, k and v; the norm of the MLP is named after what it follows.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch seed_oss = {.name = "seed_oss"};

}  // namespace halfbyte::model::archs
