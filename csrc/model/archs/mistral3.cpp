// Ministral 3 and Devstral 2: the llama layer with YaRN, and queries that grow with their distance from the beginning.
#include "model/archs/common.h"
#include "model/archs/list.h"

namespace halfbyte::model::archs {

namespace {

void customize(const MetadataReader& reader, Config& config) {
  read_query_growth(reader, config);
  // YaRN's own magnitude is divided by one that has this share of its logarithm.
  const double share = reader.real_or("rope.scaling.yarn_log_multiplier", 0.0);
  config.rope_attn_factor /= yarn_magnitude(config, share);
}

}  // namespace

const Arch mistral3 = {
    .name = "mistral3",
    .rope = ops::RopeKind::adjacent,
    .customize = customize,
};

}  // namespace halfbyte::model::archs
