// Scalar activations: the definition that every backend's vector version approximates.
#pragma once

#include <cmath>

#include "base/host_device.h"
#include "ops/ops.h"

namespace halfbyte::ops {

HALFBYTE_HOST_DEVICE inline float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::silu:
      return x / (1.0f + std::exp(-x));
    case Activation::gelu:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::gelu_quick:
      return x / (1.0f + std::exp(-1.702f * x));
    case Activation::relu:
      return x > 0 ? x : 0.0f;
    case Activation::relu_squared:
      return x > 0 ? x * x : 0.0f;
  }
  return x;
}

}  // namespace halfbyte::ops
