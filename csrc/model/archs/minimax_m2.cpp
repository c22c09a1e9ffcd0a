// MiniMax M2: norms over all heads of q and of k, rope on half of each head, experts by sigmoids with a bias that takes
// part in the choice.
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const files::TensorSource& source, Config& config) {
  if (source.metadata().get_int("minimax-m2.expert_gating_func").value_or(0) == 0)
    config.experts.gating = ops::Gating::sigmoid;
}

}  // namespace

const Arch minimax_m2 = {.name = "minimax-m2", .customize = customize};

}  // namespace halfbyte::model::archs
