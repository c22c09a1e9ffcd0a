// What fused ops mean: the ops that they stand for, one after another.
#include "ops/fused.h"

namespace halfbyte::ops {

namespace {

void norm_heads(const Ops& ops, const Context& context, const HeadArgs& args, const HeadRows& heads) {
  if (heads.norm_weight == nullptr) return;
  const int64_t dim = args.layout.key_dim;
  const auto norm = [&](float* rows, int64_t n) {
    ops.norm(context, args.norm, rows, dim, rows, dim, n, dim, heads.norm_weight, heads.norm_bias, args.norm_eps,
             nullptr);
  };
  if (heads.stride == heads.n_heads * dim) return norm(heads.rows, args.n_tokens * heads.n_heads);
  for (int64_t t = 0; t < args.n_tokens; ++t) norm(heads.rows + t * heads.stride, heads.n_heads);
}

}  // namespace

void norm_add(const Ops& ops, const Context& context, NormKind kind, float* y, float* x, float scale, int64_t n_rows,
              int64_t dim, const float* weight, const float* bias, float eps) {
  if (ops.norm_add != nullptr) return ops.norm_add(context, kind, y, x, scale, n_rows, dim, weight, bias, eps);
  ops.norm(context, kind, y, dim, y, dim, n_rows, dim, weight, bias, eps, nullptr);
  ops.add(context, x, y, scale, n_rows, dim);
}

void store_heads(const Ops& ops, const Context& context, const HeadArgs& args) {
  if (ops.store_heads != nullptr) return ops.store_heads(context, args);
  for (const HeadRows* heads : {&args.query, &args.key}) norm_heads(ops, context, args, *heads);
  if (args.rope.kind != RopeKind::none) {
    for (const HeadRows* heads : {&args.query, &args.key})
      ops.rope(context, args.rope, heads->rows, heads->stride, args.n_tokens, heads->n_heads, args.layout.key_dim,
               args.positions);
  }
  ops.store_kv(context, args.layout, args.kv, args.key.rows, args.key.stride, args.value, args.value_stride,
               args.n_tokens, args.slots);
}

}  // namespace halfbyte::ops
