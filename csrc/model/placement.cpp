// Counts what layers take of a device, and deals them out.
#include "model/placement.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "base/error.h"

namespace halfbyte::model {

namespace {

// Of what is free; the rest is for the KV cache and the work buffers.
constexpr double kWeightShare = 0.8;

struct Sizes {
  std::vector<double> layers;  // bytes of each on a device
  double output = 0;
};

bool is_expert_stack(const std::string& name) {
  return name.find("_exps.") != std::string::npos;
}

double bytes_on_device(const ops::Ops& device, const files::TensorView& tensor) {
  if (tensor.shape.size() < 2) return static_cast<double>(tensor.n_weights()) * sizeof(float);
  const int64_t n_matrices = tensor.n_rows() / tensor.shape[1];
  return static_cast<double>(n_matrices) *
         static_cast<double>(device.packed_bytes(*tensor.format, tensor.shape[1], tensor.n_cols()));
}

Sizes sizes_of(const files::TensorSource& source, const Config& config, const ops::Ops& device,
               int64_t n_host_experts) {
  Sizes sizes;
  sizes.layers.resize(static_cast<size_t>(config.n_layers));
  bool has_output = false;
  double embedding = 0;  // stays on the host, and is packed once more where it is the output too
  for (const files::TensorView& tensor : source.tensors()) {
    long long index = -1;
    if (std::sscanf(tensor.name.c_str(), "blk.%lld.", &index) == 1) {
      if (index < 0 || index >= config.n_layers || (index < n_host_experts && is_expert_stack(tensor.name))) continue;
      sizes.layers[static_cast<size_t>(index)] += bytes_on_device(device, tensor);
    } else if (tensor.name == "output.weight") {
      has_output = true;
      sizes.output += bytes_on_device(device, tensor);
    } else if (tensor.name == "token_embd.weight") {
      embedding = bytes_on_device(device, tensor);
    }
  }
  if (!has_output) sizes.output += embedding;
  return sizes;
}

// Bytes for layers on each of the first n devices; the output matrix lies on the last of them.
std::vector<double> rooms_of(const std::vector<const ops::Ops*>& devices, size_t n, double output) {
  std::vector<double> rooms;
  for (size_t i = 0; i < n; ++i) {
    const double share = kWeightShare * static_cast<double>(devices[i]->memory->available());
    rooms.push_back(std::max(1.0, i + 1 == n ? share - output : share));
  }
  return rooms;
}

// Deals the last n layers out to devices with these rooms; false where one would be overfull. `at`: of each layer.
bool deal(const Sizes& sizes, int64_t n, const std::vector<double>& rooms, std::vector<size_t>& at) {
  const auto first = static_cast<size_t>(static_cast<int64_t>(sizes.layers.size()) - n);
  const double all = std::accumulate(sizes.layers.begin() + static_cast<int64_t>(first), sizes.layers.end(), 0.0);
  const double all_room = std::accumulate(rooms.begin(), rooms.end(), 0.0);
  std::vector<double> left = rooms;
  double before = 0, room_to_here = rooms[0];
  size_t device = 0;
  bool fits = true;
  for (size_t layer = first; layer < sizes.layers.size(); ++layer) {
    // A layer goes where its middle lies when all layers are stretched over all room.
    const double middle = before + sizes.layers[layer] / 2;
    while (device + 1 < rooms.size() && middle * all_room > room_to_here * all) room_to_here += rooms[++device];
    at[layer] = device;
    before += sizes.layers[layer];
    fits = (left[device] -= sizes.layers[layer]) >= 0 && fits;
  }
  return fits;
}

}  // namespace

Placement place_layers(const files::TensorSource& source, const Config& config, const ops::Ops& host,
                       const LoadOptions& options) {
  const int64_t n_layers = config.n_layers, asked = options.n_device_layers;
  Placement out;
  out.layers.assign(static_cast<size_t>(n_layers), &host);
  out.experts = out.layers;
  if (options.devices.empty() || asked == 0) return out;
  const int most = options.devices.front()->most_head_dim, widest = std::max(config.head_dim_k, config.head_dim_v);
  if (most > 0 && widest > most) {
    if (asked < 0) return out;
    throw Error(ErrorKind::unsupported,
                format_string("%s: attention heads of %d dimensions; the GPU computes up to %d.", source.path().c_str(),
                              widest, most),
                "Use the CPU with -ngl 0.");
  }

  const Sizes sizes = sizes_of(source, config, *options.devices.front(), options.n_host_experts);
  int64_t n = asked > 0 ? std::min(asked, n_layers) : n_layers;
  std::vector<double> rooms;
  std::vector<size_t> at(static_cast<size_t>(n_layers));
  for (size_t n_devices = 1; n_devices <= options.devices.size(); ++n_devices) {
    rooms = rooms_of(options.devices, n_devices, sizes.output);
    if (deal(sizes, n, rooms, at)) break;
  }
  // Where all of them together hold less: what they hold, or what was asked for, and then memory may run out.
  while (asked < 0 && n > 0 && !deal(sizes, n, rooms, at)) --n;
  for (int64_t layer = n_layers - n; layer < n_layers; ++layer) {
    const auto l = static_cast<size_t>(layer);
    out.layers[l] = options.devices[at[l]];
    const bool is_kept = layer < options.n_host_experts && config.layers[l].n_experts > 0;
    if (!is_kept) out.experts[l] = out.layers[l];
  }
  return out;
}

}  // namespace halfbyte::model
