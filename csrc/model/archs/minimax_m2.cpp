// MiniMax M2: norms over all heads of q and of k, rope on half of each head, experts by sigmoids with a bias that takes
// part in the choice.
#include "model/archs/list.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  if (reader.number_or("expert_gating_func", 0, 0, 3) == 0) config.experts.gating = ops::Gating::sigmoid;
}

}  // namespace

const Arch minimax_m2 = {.name = "minimax-m2", .customize = customize};

}  // namespace halfbyte::model::archs
