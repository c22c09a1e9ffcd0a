// Binds tensors to roles and packs them once for a backend.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "files/tensor_source.h"
#include "model/arch.h"
#include "model/room.h"
#include "ops/ops.h"

namespace halfbyte::model {

// Norms and biases, decoded to f32, in the memory of the backend that reads them; empty when the file has none.
class Vector {
 public:
  Vector() = default;
  Vector(const std::vector<float>& values, const ops::Memory& memory);

  const float* data() const { return storage_.as<float>(); }
  size_t size() const { return storage_.size() / sizeof(float); }
  const float* data_or_null() const { return empty() ? nullptr : data(); }
  bool empty() const { return size() == 0; }

 private:
  Buffer storage_;
};

// A mixture of experts; stacks hold one matrix for each expert. Empty in dense layers.
struct ExpertWeights {
  ops::Matrix router;               // (n_experts, n_embd)
  Vector router_bias, choice_bias;  // (n_experts)
  Vector strengths;                 // (n_experts): what each one's part is multiplied by
  // Where experts stand beside a dense MLP that has norms of its own: of what the router and the experts read, and of
  // what either gives.
  Vector router_norm, input_norm, output_norm, dense_output_norm;
  ops::Matrix gate, up, down;            // stacks
  Vector gate_bias, up_bias, down_bias;  // (n_experts, rows)
  ops::Matrix shared_gate;               // (1, n_embd): what the shared expert counts, by its sigmoid; may be empty

  explicit operator bool() const { return static_cast<bool>(router); }
};

// What a layer makes of its row of the second embedding.
struct LayerEmbeddingWeights {
  ops::Matrix gate, out;  // (n_embd_per_layer, n_embd), (n_embd, n_embd_per_layer)
  Vector out_norm;
};

// The second way past attention: norm(up . (down . x)) + x.
struct ResidualWeights {
  ops::Matrix down, up;  // (rank, n_embd), (n_embd, rank)
  Vector norm;
};

// How a layer mixes several streams: by what the router says of the one that passes through it.
struct StreamWeights {
  Vector router_norm;
  ops::Matrix router;            // (n_streams, n_embd)
  ops::Matrix predict, correct;  // (n_streams * n_streams, n_streams), (n_streams, n_streams), of what the router says
  Vector identity, ones;         // what is added to either: streams stay, and take all of a change, if it says nothing
  Vector output_scale;           // (n_embd) of the stream that the layer's row of the second embedding meets
};

// Latent attention's own; the up matrices are stacks of one for each head. LayerWeights::q then gives what q_down
// left, where there is one.
struct LatentWeights {
  ops::Matrix q_down, kv_down;  // (rank of q, n_embd), (rank + rope_dim, n_embd)
  Vector q_norm, kv_norm;       // of what these gave, without the part that turns
  ops::Matrix key_up,
      value_up;  // (rank, key_dim - rope_dim): from a query to what meets the latent row; (value_dim, rank)
};

struct LayerWeights {
  Vector attn_norm, attn_norm_bias, attn_norm_2, attn_norm_2_bias, attn_post_norm;
  Vector mlp_norm, mlp_norm_bias, mlp_post_norm;
  Vector q_norm, q_norm_bias, k_norm, k_norm_bias;  // (key_dim) per head, or (n_heads * key_dim) over the row
  ops::Matrix q, k, v, qkv, o;                      // qkv where the file holds one fused matrix; then q, k, v are empty
  Vector q_bias, k_bias, v_bias, qkv_bias, o_bias;
  ops::Matrix gate, up, down, gate_up;  // of the dense MLP or the shared expert; gate_up where fused
  Vector gate_bias, up_bias, down_bias;
  Vector sinks;
  LatentWeights latent;
  ExpertWeights experts;
  LayerEmbeddingWeights embedding;
  ResidualWeights residual;
  StreamWeights streams;
  Vector stream_scale;  // (n_embd) of one number, which the stream is multiplied by behind the layer; may be empty

  // The matrix that reads a block's input before others do.
  const ops::Matrix& first_of_attention() const { return qkv ? qkv : latent.q_down ? latent.q_down : q; }
  const ops::Matrix& first_of_mlp() const {
    const bool is_routed = experts && experts.router_norm.empty();
    return is_routed ? experts.router : gate_up ? gate_up : gate ? gate : up;
  }
};

// Everything a decoder reads. Immutable once loaded; shared by decoders and engines.
struct Weights {
  Config config;
  ops::Matrix token_embedding;            // raw
  ops::Matrix layer_embedding;            // raw; of all layers, one row after another
  ops::Matrix layer_embedding_of_stream;  // (n_layers * n_embd_per_layer, n_embd): the part that the stream gives
  Vector layer_embedding_norm;            // (n_embd_per_layer), of that part
  // Of several streams those past the first: (n_embd, n_embd) each, from the embedding, and back to the output.
  std::vector<ops::Matrix> to_streams, from_streams;
  ops::Matrix output;              // packed; of the embedding where tied
  ops::Matrix position_embedding;  // raw; learned positions
  Vector output_norm, output_norm_bias, output_bias, token_embedding_norm, token_embedding_norm_bias;
  std::vector<float> rope_factors, rope_factors_long, rope_factors_short;
  std::vector<LayerWeights> layers;
  std::vector<const ops::Ops*> layer_ops;   // the backend of each layer: the host's first, then the devices'
  std::vector<const ops::Ops*> expert_ops;  // of each layer's stacks of experts: the layer's own, or the host's
  const ops::Ops* embedding_ops = nullptr;
  const ops::Ops* output_ops = nullptr;         // output norm and output matrix
  std::shared_ptr<files::TensorSource> source;  // keeps mapped bytes alive
  int64_t packed_bytes = 0;
  double device_share = 0;        // DeviceBudget::share
  std::vector<DeviceRoom> rooms;  // of the devices that there are

  bool fuses_gate() const;  // some MLP's gate and up are one matrix
  int64_t q_rank() const;   // of latent attention's queries; 0: they have none
};

struct LoadOptions {
  int n_threads = 0;      // for packing; 0: usable cores
  bool keep_raw = false;  // "mmap" mode: pack nothing
  Progress progress;
  std::vector<const ops::Ops*> devices;  // backends with memory of their own, for the last layers and the output
  int64_t n_device_layers = -1;          // how many; -1: as many as fit
  int64_t n_host_experts = 0;            // layers, from the first on, whose experts stay on the host
  DeviceBudget budget;
};

std::shared_ptr<const Weights> load_weights(std::shared_ptr<files::TensorSource> source, const ops::Ops& ops,
                                            const LoadOptions& options);

}  // namespace halfbyte::model
