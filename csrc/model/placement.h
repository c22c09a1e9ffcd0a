// Which backend computes which layer.
#pragma once

#include <vector>

#include "model/weights.h"

namespace halfbyte::model {

struct Placement {
  std::vector<const ops::Ops*> layers;   // of each layer: the host's first, then the devices', in their order
  std::vector<const ops::Ops*> experts;  // of each layer's stacks of experts
  std::vector<DeviceRoom> rooms;         // of each device, before any weights are there
};

// The last layers go to the devices: as many as were asked for, or as fit with their keys and values beside the output
// matrix and the work buffers into the share of each device's memory that the budget gives. No more devices than it
// takes; several share the layers in proportion to what is free. Experts that are to stay on the host count for nothing
// there. Throws Error(out_of_memory) where what was asked for does not fit.
Placement place_layers(const files::TensorSource& source, const Config& config, const ops::Ops& host,
                       const LoadOptions& options);

}  // namespace halfbyte::model
