// OLMo 2: norms only after each block, and RMS norms over the whole rows of q and k.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch olmo2 = {.name = "olmo2", .norm_places = NormPlaces::post};

}  // namespace halfbyte::model::archs
