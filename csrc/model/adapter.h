// Low-rank adapters (LoRA, Hu et al. 2021): what a request may add to a model's matrices without changing them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/weights.h"

namespace halfbyte::model {

// w += scale * b a; empty where the adapter leaves a matrix as it is.
struct LowRank {
  ops::Matrix a;  // (rank, n_cols)
  ops::Matrix b;  // (n_rows, rank)
};

struct LayerAdapter {
  LowRank q, k, v, qkv, o, gate, up, gate_up, down;

  bool changes_hidden() const { return gate.a || up.a || gate_up.a; }
};

// One adapter, packed for the backends that compute the model's layers. Immutable.
struct Adapter {
  std::shared_ptr<const Weights> model;  // the only one that it may change
  std::vector<LayerAdapter> layers;
  int64_t max_rank = 0;
  std::vector<std::vector<float>> kept;  // numbers of matrices that a backend did not copy
};

// A change of one matrix as it comes from a file: `name` is the tensor's ("blk.3.attn_q"); a is (rank, n_cols) and b
// (n_rows, rank), row-major, any scaling by alpha included.
struct AdapterPart {
  std::string name;
  int64_t rank = 0;
  int64_t n_cols = 0, n_rows = 0;
  std::vector<float> a, b;
};

// Throws Error(format) for a part that does not fit the model, Error(unsupported) for one that no request can switch.
std::shared_ptr<const Adapter> make_adapter(std::shared_ptr<const Weights> model, std::vector<AdapterPart> parts);

// The adapters of a request, each with its strength. `id` (above 0) tells sets apart: what one set computed must not
// serve another.
struct AdapterSet {
  explicit AdapterSet(std::vector<std::pair<std::shared_ptr<const Adapter>, float>> adapters);

  const std::vector<std::pair<std::shared_ptr<const Adapter>, float>> adapters;
  const int32_t id;
};

// Throws invalid_argument when one of them was made for another model.
void check_adapters(const AdapterSet& set, const Weights& weights);

}  // namespace halfbyte::model
