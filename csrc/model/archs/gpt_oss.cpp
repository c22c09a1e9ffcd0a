// gpt-oss: attention sinks, every other layer sees a window, experts with biases and a bounded gated unit.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  alternate_windows(reader, config, reader.number_or("attention.sliding_window", 128, 0, kMaxContext), 2);
  config.yarn_truncate = reader.flag_or("rope.scaling.yarn_truncate", false);
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
