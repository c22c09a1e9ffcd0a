// The layers that one backend computes: a run of layers with their work buffers. A decoder is one stage, or two where
// the first layers stay on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/kv_store.h"
#include "model/adapter.h"
#include "model/batch.h"
#include "model/kv_groups.h"
#include "model/observer.h"
#include "model/rope_tables.h"
#include "model/weights.h"

namespace halfbyte::model {

// What all stages need to know of a batch, in host memory.
struct StepPlan {
  std::vector<int64_t> slots;             // (groups of layers, n_rows)
  std::vector<ops::RowRun> runs;          // of the batch's rows
  std::vector<ops::RowRun> logit_runs;    // of the rows that want logits
  std::vector<int32_t> picked;            // logit rows, then hidden rows
  std::vector<ops::AttentionSpan> spans;  // (groups of layers, sequences)
  // Rows that share role and adapters, covering the batch; empty when no row has any.
  struct Part {
    ops::RowRun rows;
    const AdapterSet* adapters = nullptr;
  };
  std::vector<Part> parts;
  bool is_repeated = false;  // steps like this one come again with other tokens, positions and blocks
};

// What the last layer goes on with when its keys and values are stored: the rows that outputs are asked of, of which
// there are fewer than the batch has. Their results are those of the whole batch, bit by bit.
struct LastPlan {
  std::vector<int32_t> rows;  // of the batch, ascending; at least one
  StepPlan plan;              // of those alone; no slots
};

class Stage {
 public:
  // Layers [begin, end), all on `ops`. ropes: the model's different tables, rope_of: each layer's.
  Stage(const Weights& weights, const ops::Ops& ops, ThreadPool& pool, int64_t begin, int64_t end,
        const StepLimits& limits, const std::vector<RopeTable>& ropes, const std::vector<size_t>& rope_of,
        const KvGroups& groups);
  ~Stage();

  // Tells `observer` (nullptr: nobody) of every layer's matrix products from now on. Only on a host backend.
  void set_observer(LinearObserver* observer) { observer_ = observer; }

  // Fills the residual stream, and the layers' rows: from tokens, or from the stage before.
  void embed(const Batch& batch, const StepPlan& plan);
  void take_stream(const Stage& before, int64_t n_rows);

  // Runs the layers; the last stage also leaves output(). Throws Error(cancelled) between layers when *cancelled.
  // last: nullptr where all rows matter to the end.
  void run(const Batch& batch, const StepPlan& plan, const LastPlan* last, cache::KvStore& kv, bool is_last,
           const bool* cancelled);

  // In host memory, valid until the next run().
  StepOutput output(const Batch& batch);
  // Likewise; of a device's logits those that output() left there are fetched, into the place of those fetched before.
  std::span<float> logits(int64_t first_row, int64_t n);

 private:
  Buffer floats(int64_t n) const;
  uint64_t step_key(const Batch& batch, cache::KvStore& kv, bool is_last) const;
  void project(const float* in, int64_t in_stride, std::initializer_list<ops::Projection> projections);
  void norm(const float* in, float* out, int64_t n_rows, const Vector& weight, const Vector& bias,
            const ops::Matrix* next);
  ops::HeadRows heads(float* rows, int64_t stride, int64_t n, int n_heads, int head_dim, const Vector& norm,
                      const Vector& norm_bias);
  void norm_add(float* branch, int64_t n_rows, const Vector& weight);
  void embed_for_layers(const Batch& batch);
  void layer_row(size_t index, int64_t n);
  void add_residual(size_t index, int64_t n);
  void open_streams(int64_t n);
  void ask_router(size_t index, const float* stream, int64_t stride, int64_t n);
  void predict_streams(size_t index, int64_t n);
  void correct_streams(size_t index, int64_t n);
  void close_streams(int64_t n);
  void scale(float* rows, float factor, int64_t n);
  void attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out, bool accumulate);
  ops::RopeArgs rope_of(size_t index) const;
  void norm_values(const float* from, float* value, int64_t n_heads, int64_t dim);
  void grow(const ops::HeadRows& query, const Batch& batch);
  void keep_last_rows(const ops::HeadRows& query);
  void attend(size_t index, const ops::HeadRows& query, const ops::HeadRows& key, const float* value,
              int64_t value_stride, const ops::RopeArgs& rope, const Batch& batch, cache::KvStore& kv);
  void attend_with_keys_of_another(size_t index, const ops::HeadRows& query, const ops::RopeArgs& rope,
                                   const Batch& batch, cache::KvStore& kv);
  void read_attention(size_t index, const ops::HeadRows& query, const Batch& batch, cache::KvStore& kv);
  void leave_attention(size_t index, const float* rows, int64_t width, float* out, bool accumulate);
  void latent_attention(size_t index, const float* input, const Batch& batch, cache::KvStore& kv, float* out,
                        bool accumulate);
  void multiply_heads(const ops::Matrix& stack, const float* in, float* out, int64_t out_stride);
  void copy(const float* in, int64_t in_stride, float* out, int64_t out_stride, int64_t n, int64_t width);
  const float* ones(int64_t n);
  void adapt(size_t index, LowRank LayerAdapter::* which, const float* in, int64_t in_stride, float* out,
             int64_t out_stride, float scale = 1.0f);
  void adapt_part(const StepPlan::Part& part, size_t index, LowRank LayerAdapter::* which, const float* in,
                  int64_t in_stride, float* out, int64_t out_stride, float scale = 1.0f);
  void hidden_of_part(const StepPlan::Part& part, size_t index, const float* input);
  void unite_gates(size_t index, float* gate_up, float* hidden, int64_t n);
  void route(size_t index, const float* input);
  void experts(size_t index, const float* input, float* out, float scale, bool accumulate);
  void experts_beside(size_t index, int64_t n, float* dense);
  void sum_on_host(size_t index, const float* input, float* out, float scale, bool accumulate);
  void shared_sum(size_t index, const float* input, const float* hidden, float* out, float scale, bool accumulate);
  void feed_forward(size_t index, const float* input, float* out, bool accumulate);
  void scale_stream(const Vector& scale, int64_t n);
  void layer(size_t index, const Batch& batch, cache::KvStore& kv);
  void finish(const Batch& batch);
  bool finds_likely(const Batch& batch) const;
  template <class T>
  std::span<T> in_host(Buffer& values, int64_t first, int64_t n, Buffer& copy);

  const Weights& weights_;
  const ops::Ops& ops_;
  ops::Context context_;
  int64_t begin_, end_;
  std::vector<Buffer> inv_freqs_;  // of the different rope tables
  std::vector<float> magnitudes_;
  const std::vector<size_t>& rope_of_;
  const KvGroups& groups_;
  // Experts that the host keeps from a device: what they compute with, in host memory, grown on demand.
  struct HostExperts {
    const ops::Ops* ops = nullptr;  // nullptr: there are none
    ops::Context context;
    Buffer rows, chosen, shares, hidden, sums;
  } host_experts_;
  const StepPlan* plan_ = nullptr;  // of the running step
  const LastPlan* last_ = nullptr;  // likewise
  LinearObserver* observer_ = nullptr;

  // Activations, f32 row-major, in the backend's memory; n is the batch's rows.
  Buffer x_;                     // (n, n_embd) the residual stream
  Buffer normed_;                // (n, n_embd)
  Buffer branch_;                // (n, n_embd) a block's output where a norm follows it
  Buffer layer_rows_;            // (n, n_layers, n_embd_per_layer)
  Buffer layer_rows_of_stream_;  // likewise, on their way
  Buffer streams_;               // (n, n_streams, n_embd), of which x_ is what passes through the layers
  Buffer stream_shares_;         // (n, n_streams) what a router says, then (n, n_streams, n_streams) what is made of it
  Buffer residual_;              // (n, residual_rank)
  Buffer expert_branch_;         // (n, n_embd) what experts beside a dense MLP give
  Buffer qkv_;                   // (n, q + k + v): three matrices one after another, or one where the file fuses them
  Buffer attended_;              // (n, n_heads * value_dim)
  Buffer latent_;                // latent attention's rows on their way, one kind after another
  Buffer own_heads_;             // (n, n_heads) of int32: each head's number
  Buffer mlp_;                   // (n, n_ff)
  Buffer gate_up_;               // (n, 2 n_ff) where the file fuses them, or gates are cut
  Buffer router_logits_;         // (n, n_experts)
  Buffer chosen_;                // (n, n_used) experts, int32
  Buffer shares_;                // (n, n_used) their weights
  Buffer shared_;                // (n) experts, all 0: the shared one; then (n) weights
  Buffer expert_hidden_;         // (n * n_used, n_ff_expert)
  Buffer expert_sums_;           // (n, n_embd) what experts on the host gave a device
  Buffer low_rank_;              // (n, rank) of an adapter, grown on demand
  Buffer ones_;                  // grown on demand
  Buffer picked_;                // (picked rows, n_embd)
  Buffer logits_;                // (logit rows, n_vocab), grown on demand
  Buffer likely_;                // (logit rows, n_likely) of ops::Likely, where the backend finds them
  Buffer moved_;                 // what passes through the host on its way from a device
  Buffer host_logits_, host_hidden_, host_likely_;  // of a device's
  bool are_logits_in_host_ = true;                  // all of the step's
};

}  // namespace halfbyte::model
