// gpt-oss: attention sinks, every other layer sees a window, experts with biases and a bounded gated unit.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const files::TensorSource& source, Config& config) {
  const files::Metadata& meta = source.metadata();
  alternate_windows(source, config, meta.get_int("gpt-oss.attention.sliding_window").value_or(128), 2);
  config.yarn_truncate = meta.get_bool("gpt-oss.rope.scaling.yarn_truncate").value_or(false);
  config.experts.limit = 7.0f;
  config.experts.shift = 1.0f;
}

}  // namespace

const Arch gpt_oss = {
    .name = "gpt-oss",
    .activation = ops::Activation::gelu_quick,  // x * sigmoid(1.702 x)
    .customize = customize,
};

}  // namespace halfbyte::model::archs
