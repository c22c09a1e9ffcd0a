// Counts what layers take of a device, and deals them out.
#include "model/placement.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "base/error.h"
#include "model/kv_groups.h"

namespace halfbyte::model {

namespace {

struct Sizes {
  std::vector<double> layers;  // bytes of each on a device, with its keys and values
  std::vector<double> caches;  // of these, keys and values
  double output = 0;
  double work = 0;       // on every device
  double last_work = 0;  // on the one that gives the output
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

int widest_head(const Config& config) {
  int widest = 0;
  for (const LayerConfig& layer : config.layers) widest = std::max({widest, layer.key_dim, layer.value_dim});
  return widest;
}

// Whether every layer that reads another's keys and values lies with it. at(l): where layer l lies.
template <class At>
bool has_caches_together(const Config& config, const At& at) {
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const int64_t source = config.layers[l].kv_layer;
    if (source >= 0 && at(l) != at(static_cast<size_t>(source))) return false;
  }
  return true;
}

// Keys and values of one layer; a sequence has blocks for one token more than it is long.
double kv_bytes(const Config& config, size_t layer, const DeviceBudget& budget, int64_t n_ctx) {
  const LayerConfig& shape = config.layers[layer];
  if (shape.kv_layer >= 0) return 0;
  const ops::KvLayout layout = {budget.k_type, budget.v_type, shape.n_kv_heads, shape.key_dim, shape.value_dim};
  return static_cast<double>((n_ctx / ops::kKvBlockTokens + 2) * layout.block_bytes());
}

// What the pool takes for each byte that layers fill: groups leave some of their blocks empty.
double padding(const Config& config, const KvGroups& groups) {
  std::vector<double> filled(groups.windows.size());
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const LayerConfig& layer = config.layers[l];
    if (layer.kv_layer < 0)
      filled[static_cast<size_t>(groups.group_of[l])] += layer.n_kv_heads * (layer.key_dim + layer.value_dim);
  }
  const double most = *std::max_element(filled.begin(), filled.end());
  return most * static_cast<double>(filled.size()) / std::accumulate(filled.begin(), filled.end(), 0.0);
}

Sizes sizes_of(const files::TensorSource& source, const Config& config, const ops::Ops& device,
               const LoadOptions& options, int64_t n_ctx) {
  const int64_t n_host_experts = options.n_host_experts;
  Sizes sizes;
  // As if all were on one device.
  const KvGroups groups = kv_groups(config.layers, std::vector(config.layers.size(), device.memory));
  const double padded = padding(config, groups);
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    sizes.caches.push_back(padded * kv_bytes(config, layer, options.budget, n_ctx));
    sizes.layers.push_back(sizes.caches.back());
  }
  const bool has_experts = config.experts.n_used > 0;
  const files::TensorView* q_down = source.find("blk.0.attn_q_a.weight");
  const StepLimits limits = {options.budget.n_rows, options.budget.n_logit_rows(), n_ctx};
  StageKind kind = {.is_on_device = true,
                    .gives_output = false,
                    .fuses_gate = config.gated_mlp && source.find("blk.0.ffn_gate.weight") == nullptr,
                    .q_rank = q_down != nullptr ? q_down->n_rows() : 0,
                    .has_experts = has_experts,
                    .has_experts_on_host = has_experts && n_host_experts > 0};
  sizes.work = static_cast<double>(work_bytes(config, limits, kind, device, groups.n_groups()));
  kind.gives_output = true;
  sizes.last_work = static_cast<double>(work_bytes(config, limits, kind, device, groups.n_groups()));
  bool has_output = false;
  double embedding = 0;  // stays on the host, and is packed once more where it is the output too
  for (const files::TensorView& tensor : source.tensors()) {
    long long index = -1;
    if (std::sscanf(tensor.name.c_str(), "blk.%lld.", &index) == 1) {
      if (index < 0 || index >= config.n_layers || (index < n_host_experts && is_expert_stack(tensor.name))) continue;
      sizes.layers[static_cast<size_t>(index)] += bytes_on_device(device, tensor);
    } else if (tensor.name == "altup_proj.weight") {
      sizes.layers.front() += bytes_on_device(device, tensor);
    } else if (tensor.name == "altup_unembd_proj.weight") {
      sizes.output += bytes_on_device(device, tensor);
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
std::vector<double> rooms_of(const LoadOptions& options, size_t n, const Sizes& sizes) {
  std::vector<double> rooms;
  for (size_t i = 0; i < n; ++i) {
    const ops::Memory& memory = *options.devices[i]->memory;
    const auto allowed = static_cast<double>(allowed_bytes(memory, options.budget) -
                                             options.budget.taken_beside(memory) - options.budget.later_beside(memory));
    rooms.push_back(std::max(1.0, allowed - (i + 1 == n ? sizes.last_work + sizes.output : sizes.work)));
  }
  return rooms;
}

double mebibytes(double n_bytes) {
  return n_bytes / (1 << 20);
}

[[noreturn]] void refuse(const LoadOptions& options, const Sizes& sizes, int64_t n, int64_t n_ctx) {
  const double layers = std::accumulate(sizes.layers.end() - n, sizes.layers.end(), 0.0);
  const auto n_devices = static_cast<double>(options.devices.size());
  double allowed = 0, free = 0, total = 0;
  for (const ops::Ops* device : options.devices) {
    allowed += static_cast<double>(allowed_bytes(*device->memory, options.budget) -
                                   options.budget.taken_beside(*device->memory) -
                                   options.budget.later_beside(*device->memory));
    free += static_cast<double>(device->memory->available());
    total += static_cast<double>(device->memory->total());
  }
  throw Error(
      ErrorKind::out_of_memory,
      format_string("%lld layers need %.1f MiB of GPU memory (with keys and values of %lld tokens; the output matrix "
                    "%.1f MiB and work buffers %.1f MiB among them); %.1f MiB may be taken: of %.1f MiB, %.1f MiB are "
                    "free, and gpu_memory_utilization is %.2f.",
                    static_cast<long long>(n),
                    mebibytes(layers + sizes.output + sizes.last_work + (n_devices - 1) * sizes.work),
                    static_cast<long long>(n_ctx), mebibytes(sizes.output),
                    mebibytes(sizes.last_work + (n_devices - 1) * sizes.work), mebibytes(allowed), mebibytes(total),
                    mebibytes(free), options.budget.share),
      "Put fewer layers on the GPU (-ngl N, n_gpu_layers), keep experts off it (--cpu-moe, cpu_moe), allow more of it "
      "(--gpu-memory-utilization), or choose a smaller context (-c, n_ctx), batch (-b, n_batch) or KV type (--kv-type "
      "q8_0, kv_type).");
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
  for (const ops::Ops* device : options.devices)
    out.rooms.push_back({.memory = device->memory, .allowed_bytes = allowed_bytes(*device->memory, options.budget)});
  if (options.devices.empty() || asked == 0) return out;
  const ops::Ops& device = *options.devices.front();
  const int most = device.most_head_dim, widest = widest_head(config);
  if (most > 0 && widest > most) {
    if (asked < 0) return out;
    throw Error(ErrorKind::unsupported,
                format_string("%s: attention heads of %d dimensions; the GPU computes up to %d.", source.path().c_str(),
                              widest, most),
                "Use the CPU with -ngl 0.");
  }

  const int64_t least = asked > 0 ? DeviceBudget::kLeastContext : DeviceBudget::kUsualContext;
  const int64_t n_ctx = options.budget.n_ctx > 0 ? options.budget.n_ctx : std::min(config.n_ctx_train, least);
  const Sizes sizes = sizes_of(source, config, device, options, n_ctx);
  int64_t n = asked > 0 ? std::min(asked, n_layers) : n_layers;
  std::vector<double> rooms;
  std::vector<size_t> at(static_cast<size_t>(n_layers));
  bool fits = false;
  for (size_t n_devices = 1; n_devices <= options.devices.size() && !fits; ++n_devices) {
    rooms = rooms_of(options, n_devices, sizes);
    fits = deal(sizes, n, rooms, at);
  }
  // Where all of them together hold less: what they hold.
  if (asked > 0 && !fits) refuse(options, sizes, n, n_ctx);
  const auto device_of = [&](size_t l) {
    return static_cast<int64_t>(l) < n_layers - n ? nullptr : options.devices[at[l]];
  };
  if (asked > 0 && !has_caches_together(config, device_of)) {
    throw Error(ErrorKind::unsupported,
                format_string("%s: with %lld layers on the GPU, some would read keys and values of layers elsewhere.",
                              source.path().c_str(), static_cast<long long>(n)),
                "Put all layers on one GPU (-ngl 999), or none (-ngl 0).");
  }
  while (n > 0 && !(deal(sizes, n, rooms, at) && has_caches_together(config, device_of))) --n;
  for (int64_t layer = n_layers - n; layer < n_layers; ++layer) {
    const auto l = static_cast<size_t>(layer);
    out.layers[l] = options.devices[at[l]];
    out.rooms[at[l]].later_bytes += static_cast<int64_t>(sizes.caches[l]);
    const bool is_kept = layer < options.n_host_experts && config.layers[l].n_experts > 0;
    if (!is_kept) out.experts[l] = out.layers[l];
  }
  for (DeviceRoom& room : out.rooms) {
    const bool is_last = n > 0 && room.memory == out.layers.back()->memory;
    if (room.later_bytes > 0) room.later_bytes += static_cast<int64_t>(is_last ? sizes.last_work : sizes.work);
  }
  return out;
}

}  // namespace halfbyte::model
