// EXAONE 3 and 3.5: the llama layer with rope on halves, its factors from the file.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

const Arch exaone = {.name = "exaone"};

}  // namespace halfbyte::model::archs
