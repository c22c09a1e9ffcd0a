// What several families' customize functions share.
#pragma once

#include <cmath>

#include "base/error.h"
#include "model/arch.h"
#include "model/metadata_reader.h"

namespace halfbyte::model::archs {

// Layers alternate between a window and full attention: of every `period` layers the last is full. A file may say
// otherwise in attention.sliding_window_pattern (a period, or one flag per layer).
inline void alternate_windows(const MetadataReader& reader, Config& config, int64_t window, int64_t period) {
  const auto pattern = reader.source().metadata().get_ints(config.arch + ".attention.sliding_window_pattern");
  const bool per_layer = pattern && static_cast<int64_t>(pattern->size()) == config.n_layers && config.n_layers > 1;
  if (pattern && !per_layer && pattern->size() == 1 && pattern->front() >= 0) period = pattern->front();
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const bool windowed = per_layer ? (*pattern)[static_cast<size_t>(i)] != 0 : period == 0 || i % period < period - 1;
    config.layers[static_cast<size_t>(i)].window = windowed ? window : 0;
  }
}

// Layers with a window turn by a base of their own; scaling is for the full ones only.
inline void turn_windows_faster(const MetadataReader& reader, Config& config) {
  const double theta = reader.positive_or("rope.freq_base_swa", 10000.0);
  for (LayerConfig& layer : config.layers) {
    if (layer.window == 0) continue;
    layer.rope_theta = theta;
    layer.rope_freq_scale = 1.0;
  }
}

// The last n_shared layers read what the last one of their kind before them has stored.
inline void share_caches(const MetadataReader& reader, Config& config, int64_t n_shared) {
  const int64_t first = config.n_layers - n_shared;
  for (int64_t i = first; i < config.n_layers; ++i) {
    LayerConfig& layer = config.layers[static_cast<size_t>(i)];
    const auto is_alike = [&](const LayerConfig& other) {
      return other.window == layer.window && other.n_kv_heads == layer.n_kv_heads && other.key_dim == layer.key_dim;
    };
    layer.kv_layer = first - 1;
    while (layer.kv_layer >= 0 && !is_alike(config.layers[static_cast<size_t>(layer.kv_layer)])) --layer.kv_layer;
    if (layer.kv_layer < 0) {
      throw Error(ErrorKind::format, format_string("%s: layer %lld has no keys and values, nor has one like it.",
                                                   reader.source().path().c_str(), static_cast<long long>(i)));
    }
  }
}

// In most families' files logit_scale divides; here it multiplies.
inline void multiply_logits(Config& config) {
  config.logit_scale = 1.0f / config.logit_scale;
}

// 1 + share * 0.1 ln(factor) where positions are stretched by YaRN, else 1.
inline double yarn_magnitude(const Config& config, double share) {
  const bool is_stretched = config.rope_scaling == RopeScaling::yarn && config.rope_factor > 1.0;
  return is_stretched ? 1.0 + share * 0.1 * std::log(config.rope_factor) : 1.0;
}

// Queries that grow with the position (Config::temperature_scale).
inline void read_query_growth(const MetadataReader& reader, Config& config) {
  const double scale = reader.real_or("attention.temperature_scale", 0.0);
  if (scale == 0) return;
  config.temperature_length =
      reader.number_or("attention.temperature_length", config.rope_original_ctx, 1, kMaxContext);
  config.temperature_scale = static_cast<float>(scale);
}

}  // namespace halfbyte::model::archs
