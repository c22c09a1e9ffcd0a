// GLM 4.5 to 4.7 (Air and the large ones): experts by sigmoids and a bias that takes part in the choice, a shared one,
// dense layers first. The last layers predict further tokens and are left out.
#include "base/error.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const files::TensorSource& source, Config& config) {
  const files::Metadata& meta = source.metadata();
  if (meta.get_int("glm4moe.expert_gating_func").value_or(0) == 0) config.experts.gating = ops::Gating::sigmoid;
  const int64_t n_further = meta.get_int("glm4moe.nextn_predict_layers").value_or(0);
  if (n_further < 0 || n_further >= config.n_layers)
    throw Error(ErrorKind::format, source.path() + ": metadata key glm4moe.nextn_predict_layers is out of range.");
  config.n_layers -= n_further;
  config.layers.resize(static_cast<size_t>(config.n_layers));
}

}  // namespace

const Arch glm4moe = {.name = "glm4moe", .customize = customize};

}  // namespace halfbyte::model::archs
