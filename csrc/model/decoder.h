// The forward pass, written once for all families over ops.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/kv_store.h"
#include "model/arch.h"
#include "model/batch.h"
#include "model/kv_groups.h"
#include "model/observer.h"
#include "model/weights.h"

namespace halfbyte::model {

// Holds weights (const) and work buffers. One thread at a time.
class Decoder {
 public:
  // n_threads workers; max_rows bounds a batch's rows, max_logit_rows its logit rows. n_ctx (0: the model's) decides
  // between the short and long factors of LongRoPE.
  Decoder(std::shared_ptr<const Weights> weights, int n_threads, int64_t max_rows, int64_t max_logit_rows,
          int64_t n_ctx = 0);
  ~Decoder();

  const Config& config() const;

  // Which block tables a batch's sequences have.
  const KvGroups& kv_groups() const;
  // A cache of n_blocks blocks, each layer's in the memory of the backend that computes it.
  cache::KvStore make_kv(ops::KvType k_type, ops::KvType v_type, int32_t n_blocks) const;

  // Tells `observer` (nullptr: nobody) what enters the layers' matrices from now on. Only for models on the host.
  void set_observer(LinearObserver* observer);

  // Runs the batch, writing K and V of its rows into `kv`. `cancelled`, when given, is asked between layers; true ends
  // the call with Error(cancelled).
  StepOutput forward(const Batch& batch, cache::KvStore& kv, const bool* cancelled = nullptr);
  // Logits of n of the last step's logit rows, (n, n_vocab) f32: valid until the next call of either.
  std::span<float> logits(int64_t first_row, int64_t n);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::model
