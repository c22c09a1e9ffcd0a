// Rope frequencies and their scalings.
#include "model/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace halfbyte::model {

namespace {

// The pair at which a wavelength turns `rotations` times within the original context.
double yarn_boundary(const Config& c, const LayerConfig& layer, double rotations) {
  return layer.rope_dim * std::log(static_cast<double>(c.rope_original_ctx) / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(layer.rope_theta));
}

}  // namespace

RopeTable rope_table(const Weights& weights, const LayerConfig& layer, int64_t n_ctx) {
  const Config& c = weights.config;
  const int pairs = layer.rope_dim / 2;
  RopeTable table;
  const std::vector<float> none;
  const std::vector<float>* factors = layer.uses_rope_factors ? &weights.rope_factors : &none;
  if (c.rope_scaling == RopeScaling::longrope) {
    factors = n_ctx > c.rope_original_ctx ? &weights.rope_factors_long : &weights.rope_factors_short;
  }
  const bool yarn = c.rope_scaling == RopeScaling::yarn && layer.rope_freq_scale != 1.0;
  double low = 0.0, high = 0.0;
  if (yarn) {
    low = yarn_boundary(c, layer, c.yarn_beta_fast);
    high = yarn_boundary(c, layer, c.yarn_beta_slow);
    low = std::max(0.0, c.yarn_truncate ? std::floor(low) : low);
    high = std::min(layer.rope_dim - 1.0, c.yarn_truncate ? std::ceil(high) : high);
  }
  for (int i = 0; i < pairs; ++i) {
    double frequency = std::pow(layer.rope_theta, -2.0 * i / layer.rope_dim);
    if (!factors->empty()) frequency /= (*factors)[static_cast<size_t>(i)];
    if (yarn) {
      const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
      const double keep = (1.0 - ramp) * c.yarn_ext_factor;  // high frequencies are left as they are
      frequency = frequency * layer.rope_freq_scale * (1.0 - keep) + frequency * keep;
    } else {
      frequency *= layer.rope_freq_scale;
    }
    table.inv_freq.push_back(static_cast<float>(frequency));
  }
  double magnitude = c.rope_attn_factor;
  if (yarn) magnitude *= 1.0 + 0.1 * std::log(1.0 / layer.rope_freq_scale);
  table.magnitude = static_cast<float>(magnitude);
  return table;
}

}  // namespace halfbyte::model
