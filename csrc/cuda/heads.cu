// Norm and rope of query and key heads, and the writing of keys and values, in one kernel.
#include "cuda/heads.h"
#include "cuda/rows.cuh"
#include "cuda/session.h"
#include "ops/kv_element.h"

namespace halfbyte::cuda {

namespace {

constexpr int kHeadsPerBlock = 4;

struct HeadJob {
  ops::HeadRows query, key;
  const float* value;
  int64_t value_stride;
  Norm norm;  // weight and bias are the heads'
  Rotation rotation;
  const int32_t* positions;  // nullptr: nothing is rotated
  int n_kv_heads, key_dim, value_dim;
  ops::KvType k_type, v_type;
  int64_t block_bytes, head_bytes, key_tile_bytes;
  std::byte* kv;
  const int64_t* slots;
};

// Where dim d of position t lies among 16-bit or 32-bit numbers: keys have positions side by side, values dims.
template <bool kKey>
__device__ inline int number_at(int d, int t, int dim) {
  return kKey ? d * ops::kKvBlockTokens + t : t * dim + d;
}

template <bool kKey>
__device__ inline void store_row(ops::KvType type, int dim, std::byte* tile, int t, const float* from, int lane) {
  constexpr int kT = ops::kKvBlockTokens;
  if (type == ops::KvType::f16 || type == ops::KvType::bf16 || type == ops::KvType::f32) {
    for (int d = lane; d < dim; d += kWarp) {
      const int at = number_at<kKey>(d, t, dim);
      if (type == ops::KvType::f32)
        reinterpret_cast<float*>(tile)[at] = from[d];
      else
        reinterpret_cast<uint16_t*>(tile)[at] =
            type == ops::KvType::f16 ? float_to_half(from[d]) : float_to_bfloat(from[d]);
    }
    return;
  }
  auto* scales = reinterpret_cast<uint16_t*>(tile);
  auto* codes = reinterpret_cast<uint8_t*>(tile + 2 * (dim / 32) * kT);
  for (int group = 0; group < dim / 32; ++group) {
    const float x = from[32 * group + lane];
    // The first number of largest magnitude, with its sign.
    float extreme = fabsf(x) > 0.0f ? x : 0.0f;
    int at = lane;
    for (int mask = 1; mask < kWarp; mask *= 2) {
      const float other = shuffle_xor(extreme, mask);
      const int other_at = shuffle_xor(at, mask);
      if (fabsf(other) > fabsf(extreme) || (fabsf(other) == fabsf(extreme) && other_at < at)) {
        extreme = other;
        at = other_at;
      }
    }
    const float scale = type == ops::KvType::q8_0 ? fabsf(extreme) / 127.0f : extreme / -8.0f;
    const int code = ops::kv_code(type, x, scale != 0.0f ? 1.0f / scale : 0.0f);
    if (lane == 0) scales[kKey ? group * kT + t : t * (dim / 32) + group] = float_to_half(scale);
    const int d = 32 * group + lane;
    if (type == ops::KvType::q8_0) {
      codes[kKey ? (d / 4 * kT + t) * 4 + d % 4 : t * dim + d] = static_cast<uint8_t>(code);
      continue;
    }
    const int high = shuffle_xor(code, kKey ? 4 : 16);
    const auto both = static_cast<uint8_t>(code | high << 4);
    if (kKey && d % 8 < 4) codes[(d / 8 * kT + t) * 4 + d % 4] = both;
    if (!kKey && lane < 16) codes[t * (dim / 2) + 16 * group + lane] = both;
  }
}

// A warp norms and rotates a head in shared memory.
__device__ inline void prepare_head(const HeadJob& job, const ops::HeadRows& heads, const float* from, int64_t token,
                                    int lane, float* head) {
  if (heads.norm_weight != nullptr) {
    Norm norm = job.norm;
    norm.weight = heads.norm_weight;
    norm.bias = heads.norm_bias;
    norm_row<kWarp>(norm, from, lane, nullptr, norm.dim, [&](int i, float value) { head[i] = value; });
  } else {
    for (int i = lane; i < job.key_dim; i += kWarp) head[i] = from[i];
  }
  __syncwarp();
  for (int pair = lane; pair < job.rotation.half; pair += kWarp) job.rotation.rotate(head, pair, job.positions[token]);
  __syncwarp();
}

// A warp a head of a token: queries first, then keys, then values.
__global__ void __launch_bounds__(kHeadsPerBlock* kWarp) take_heads(const HeadJob job) {
  __shared__ float heads[kHeadsPerBlock][kMostKeyDim];
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  int head = static_cast<int>(blockIdx.y) * kHeadsPerBlock + warp;
  if (head < job.query.n_heads) {
    float* row = job.query.rows + token * job.query.stride + static_cast<int64_t>(head) * job.key_dim;
    prepare_head(job, job.query, row, token, lane, heads[warp]);
    for (int i = lane; i < job.key_dim; i += kWarp) row[i] = heads[warp][i];
    return;
  }
  head -= job.query.n_heads;
  const bool is_key = head < job.n_kv_heads;
  if (!is_key) head -= job.n_kv_heads;
  const int64_t slot = job.slots[token];
  if (head >= job.n_kv_heads || slot < 0) return;
  const int t = static_cast<int>(slot % ops::kKvBlockTokens);
  std::byte* tile = job.kv + slot / ops::kKvBlockTokens * job.block_bytes + head * job.head_bytes;
  if (is_key) {
    const float* row = job.key.rows + token * job.key.stride + static_cast<int64_t>(head) * job.key_dim;
    prepare_head(job, job.key, row, token, lane, heads[warp]);
    store_row<true>(job.k_type, job.key_dim, tile, t, heads[warp], lane);
  } else {
    const float* row = job.value + token * job.value_stride + static_cast<int64_t>(head) * job.value_dim;
    store_row<false>(job.v_type, job.value_dim, tile + job.key_tile_bytes, t, row, lane);
  }
}

}  // namespace

void check_heads(const ops::KvLayout& layout) {
  if (layout.key_dim <= kMostKeyDim && layout.value_dim <= kMostValueDim) return;
  throw Error(ErrorKind::unsupported,
              format_string("Attention heads of %d and %d dimensions; the GPU computes up to %d and %d.",
                            layout.key_dim, layout.value_dim, kMostKeyDim, kMostValueDim),
              "Use the CPU with -ngl 0.");
}

void store_heads(const ops::Context& context, const ops::HeadArgs& args) {
  if (args.n_tokens == 0) return;
  const ops::KvLayout& layout = args.layout;
  check_heads(layout);
  Session& session = session_of(context);
  const Rotation rotation(args.rope);
  const HeadJob job = {args.query,
                       args.key,
                       args.value,
                       args.value_stride,
                       {args.norm == ops::NormKind::layer, layout.key_dim, nullptr, nullptr, args.norm_eps},
                       rotation,
                       rotation.half > 0 ? session.positions(args.positions, args.n_tokens) : nullptr,
                       layout.n_kv_heads,
                       layout.key_dim,
                       layout.value_dim,
                       layout.k_type,
                       layout.v_type,
                       layout.stride(),
                       layout.head_bytes(),
                       layout.key_tile_bytes(),
                       args.kv,
                       session.slots(args.slots, args.n_tokens)};
  const int n_heads = args.query.n_heads + 2 * layout.n_kv_heads;
  const dim3 grid(static_cast<unsigned>(args.n_tokens),
                  static_cast<unsigned>((n_heads + kHeadsPerBlock - 1) / kHeadsPerBlock));
  launch(session.stream(), grid, dim3(kHeadsPerBlock * kWarp), 0, take_heads, job);
}

void store_kv(const ops::Context& context, const ops::KvLayout& layout, std::byte* kv, const float* k, int64_t k_stride,
              const float* v, int64_t v_stride, int64_t n_tokens, const int64_t* slots) {
  // Nothing is changed here, but HeadRows are of rows that may be.
  store_heads(context, {.query = {},
                        .key = {.rows = const_cast<float*>(k), .stride = k_stride, .n_heads = layout.n_kv_heads},
                        .value = v,
                        .value_stride = v_stride,
                        .n_tokens = n_tokens,
                        .norm = ops::NormKind::rms,
                        .norm_eps = 0.0f,
                        .rope = {},
                        .positions = nullptr,
                        .layout = layout,
                        .kv = kv,
                        .slots = slots});
}

}  // namespace halfbyte::cuda
