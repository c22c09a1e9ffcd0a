// What a model takes of memory beside its weights, and how much it may take of a device's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/arch.h"
#include "ops/ops.h"

namespace halfbyte::model {

// What a loaded model takes of a device.
struct DeviceRoom {
  const ops::Memory* memory = nullptr;
  int64_t allowed_bytes = 0;  // of it, for this model and those beside it, when loading began
  int64_t weight_bytes = 0;
  int64_t later_bytes = 0;  // keys, values and work buffers that its layers left room for
};

// What an engine will ask of the devices, known before the model is loaded, so that its layers leave room for it.
struct DeviceBudget {
  double share = 0.9;  // of each device's memory, for weights, KV blocks and work buffers together
  int64_t n_ctx = 0;   // 0: not said
  int64_t n_rows = 512;
  int64_t n_sequences = 64;
  ops::KvType k_type = ops::KvType::f16, v_type = ops::KvType::f16;
  std::vector<DeviceRoom> beside;  // of a model that is loaded and shares the devices (a draft model)

  // What that model has taken of a device, and what it is going to take.
  int64_t taken_beside(const ops::Memory& device) const;
  int64_t later_beside(const ops::Memory& device) const;

  // Rows of a step that may have logits.
  int64_t n_logit_rows() const { return n_sequences + kForwardRows; }

  static constexpr int64_t kForwardRows = 64;  // of raw passes (engine/forward.h)
  // The context that must find room where none was said.
  static constexpr int64_t kLeastContext = 512, kUsualContext = 4096;
};

// Bytes of a device that may be taken, by the model beside too: the share, or what others have left of it.
int64_t allowed_bytes(const ops::Memory& device, const DeviceBudget& budget);

// Rows of a decoder's largest step, and those of them with logits.
struct StepLimits {
  int64_t n_rows = 0, n_logit_rows = 0;
  int64_t n_ctx = 0;
};

// Which buffers a stage has beside those that every one has.
struct StageKind {
  bool is_on_device = false;
  bool gives_output = false;  // the last stage
  bool fuses_gate = false;    // some MLP's gate and up are one matrix
  int64_t q_rank = 0;         // of latent attention's queries; 0: they have none
  bool has_experts = false, has_experts_on_host = false;
};

// Floats of a stage's buffers (model/stage.h).
struct StageSizes {
  int64_t row = 0;  // of one with n_embd numbers a row; there are four
  int64_t qkv = 0, attended = 0, mlp = 0, gate_up = 0;
  int64_t layer_rows = 0, expert_branch = 0;  // there are two of the first
  int64_t streams = 0, stream_shares = 0, residual = 0;
  int64_t router_logits = 0, choices = 0, shared = 0, expert_hidden = 0, expert_sums = 0;
  int64_t latent = 0, own_heads = 0, ones = 0;  // of latent attention
  int64_t logits = 0, likely = 0;               // made ahead on devices only

  int64_t n_floats() const {
    return 4 * row + 2 * layer_rows + expert_branch + streams + stream_shares + residual + qkv + attended + mlp +
           gate_up + router_logits + 2 * choices + shared + expert_hidden + expert_sums + latent + own_heads + ones +
           logits + likely;
  }
};
int most_heads(const Config& config);  // of any layer
StageSizes stage_sizes(const Config& config, const StepLimits& limits, const StageKind& kind);

// What the backend is told of a stage's steps.
ops::StepShape step_shape(const Config& config, const StepLimits& limits, int64_t q_rank, int64_t n_kv_groups);

// Bytes of a device that a stage's buffers and its backend's scratch memory take.
int64_t work_bytes(const Config& config, const StepLimits& limits, const StageKind& kind, const ops::Ops& device,
                   int64_t n_kv_groups);

}  // namespace halfbyte::model
