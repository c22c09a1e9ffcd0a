// What adapters change of a stage's matrices: each row by its own adapters, whatever else is in the batch.
#include <array>

#include "model/stage.h"

namespace halfbyte::model {

// out += scale * what the rows' adapters change of a matrix, for the rows that have any.
void Stage::adapt(size_t index, LowRank LayerAdapter::* which, const float* in, int64_t in_stride, float* out,
                  int64_t out_stride, float scale) {
  for (const StepPlan::Part& part : plan_->parts) adapt_part(part, index, which, in, in_stride, out, out_stride, scale);
}

void Stage::adapt_part(const StepPlan::Part& part, size_t index, LowRank LayerAdapter::* which, const float* in,
                       int64_t in_stride, float* out, int64_t out_stride, float scale) {
  if (part.adapters == nullptr) return;
  const int64_t begin = part.rows.begin, n = part.rows.end - begin;
  const std::array<ops::RowRun, 1> run = {{{0, n, part.rows.role}}};
  for (const auto& [adapter, strength] : part.adapters->adapters) {
    const LowRank& change = adapter->layers[index].*which;
    if (!change.a) continue;
    const int64_t rank = change.a.n_rows;
    if (low_rank_.size() < static_cast<size_t>(n * rank) * sizeof(float)) low_rank_ = floats(n * rank);
    const ops::Projection down[] = {{.weight = &change.a, .out = low_rank_.as<float>(), .out_stride = rank}};
    ops_.linear(context_, in + begin * in_stride, in_stride, run, std::span(down));
    const ops::Projection up[] = {{.weight = &change.b,
                                   .out = out + begin * out_stride,
                                   .out_stride = out_stride,
                                   .scale = scale * strength,
                                   .accumulate = true}};
    ops_.linear(context_, low_rank_.as<float>(), rank, run, std::span(up));
  }
}

}  // namespace halfbyte::model
