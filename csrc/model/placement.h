// Which backend computes which layer.
#pragma once

#include <vector>

#include "model/weights.h"

namespace halfbyte::model {

struct Placement {
  std::vector<const ops::Ops*> layers;   // of each layer: the host's first, then the devices', in their order
  std::vector<const ops::Ops*> experts;  // of each layer's stacks of experts
};

// The last layers go to the devices: as many as were asked for, or as fit beside the output matrix and a share of each
// device's memory for the KV cache and the work buffers. No more devices than it takes; several share the layers in
// proportion to what is free. Experts that are to stay on the host count for nothing there.
Placement place_layers(const files::TensorSource& source, const Config& config, const ops::Ops& host,
                       const LoadOptions& options);

}  // namespace halfbyte::model
