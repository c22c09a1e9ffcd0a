// Chooses experts, sorts rows by them, and adds up what they gave.
#include <cmath>

#include "cuda/experts.h"

namespace halfbyte::cuda {

namespace {

constexpr int kThreads = 256, kMostExperts = 1024, kGroup = 8;
// Up to this many slots one block sorts them; more are counted first and then placed by all processors.
constexpr int64_t kFewSlots = 1024;

// The index with the highest key of a warp's lanes, the lowest among equals; every lane gets it.
__device__ int best_of_warp(float key, int index) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other_key = shuffle_xor(key, mask);
    const int other = shuffle_xor(index, mask);
    if (other_key > key || (other_key == key && other < index)) {
      key = other_key;
      index = other;
    }
  }
  return index;
}

// A warp a token; lane l looks at experts l, l + 32, ...
__global__ void choose(const ops::Routing routing, const float* logits, int64_t n_tokens, int32_t* experts,
                       float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp;
  if (token >= n_tokens) return;
  const float* row = logits + token * routing.n_experts;
  const bool is_softmax = routing.gating == ops::Gating::softmax;
  float highest = -INFINITY, total = 1.0f;
  if (is_softmax) {
    for (int e = lane; e < routing.n_experts; e += kWarp) highest = fmaxf(highest, row[e]);
    for (int mask = 16; mask > 0; mask /= 2) highest = fmaxf(highest, shuffle_xor(highest, mask));
    total = 0.0f;
    for (int e = lane; e < routing.n_experts; e += kWarp) total += expf(row[e] - highest);
    for (int mask = 16; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
  }
  const auto score = [&](int e) { return is_softmax ? expf(row[e] - highest) : 1.0f / (1.0f + expf(-row[e])); };
  const auto key_of = [&](int e) { return routing.bias != nullptr ? score(e) / total + routing.bias[e] : score(e); };
  uint32_t taken = 0;  // of this lane's experts
  if (routing.n_groups > 1) {
    const int per_group = routing.n_experts / routing.n_groups;
    float mine = -INFINITY;  // of group `lane`
    for (int g = 0; g < routing.n_groups; ++g) {
      float first = -INFINITY, second = -INFINITY;
      for (int e = g * per_group + lane; e < (g + 1) * per_group; e += kWarp) {
        const float key = key_of(e);
        if (key > first) {
          second = first;
          first = key;
        } else if (key > second) {
          second = key;
        }
      }
      for (int mask = 16; mask > 0; mask /= 2) {
        const float others_first = shuffle_xor(first, mask), others_second = shuffle_xor(second, mask);
        second = fmaxf(fminf(first, others_first), fmaxf(second, others_second));
        first = fmaxf(first, others_first);
      }
      if (lane == g) mine = is_softmax ? first : first + second;
    }
    uint32_t open = 0;
    for (int i = 0; i < routing.n_groups_used; ++i) {
      const bool is_free = lane < routing.n_groups && (open >> lane & 1) == 0;
      float best_key = is_free && mine >= -INFINITY ? mine : -INFINITY;
      int best = is_free ? lane : kWarp;
      best = best_of_warp(best_key, best);
      open |= 1u << best;
    }
    for (int e = lane; e < routing.n_experts; e += kWarp) taken |= (~open >> e / per_group & 1) << e / kWarp;
  }
  float chosen_sum = 0.0f;
  for (int j = 0; j < routing.n_used; ++j) {
    float best_key = -INFINITY;
    int best = kMostExperts;
    for (int e = lane; e < routing.n_experts; e += kWarp) {
      if ((taken >> e / kWarp & 1) != 0) continue;
      const float key = key_of(e);
      if (key > best_key || best == kMostExperts) {
        best_key = key >= -INFINITY ? key : -INFINITY;  // what is not a number comes last
        best = e;
      }
    }
    best = best_of_warp(best_key, best);
    if (best % kWarp == lane) taken |= 1u << best / kWarp;
    chosen_sum += score(best);
    if (lane == 0) experts[token * routing.n_used + j] = best;
  }
  const float divisor = routing.normalize ? chosen_sum + 1e-20f : total;
  __syncwarp();  // lane 0 wrote the choices
  for (int j = lane; j < routing.n_used; j += kWarp) {
    const int64_t at = token * routing.n_used + j;
    const float strength = routing.strengths != nullptr ? routing.strengths[experts[at]] : 1.0f;
    weights[at] = routing.scale * (score(experts[at]) / divisor) * strength;
  }
}

struct GroupJob {
  const int32_t* experts;
  int n_slots, n_experts;
  int groups_per_tile;
  int32_t* counts;  // of each expert's slots
  ExpertTile* tiles;
  int32_t* slots;
  int n_tiles, n_rows;
};

// A warp counts an expert's slots.
__device__ inline int count_slots(const GroupJob& job, int expert, int lane) {
  int n = 0;
  for (int first = 0; first < job.n_slots; first += kWarp)
    n += count_bits(ballot(first + lane < job.n_slots && job.experts[first + lane] == expert));
  return n;
}

// A warp places an expert's slots behind those of the experts before it.
__device__ inline void place_slots(const GroupJob& job, const int32_t* counts, int expert, int lane) {
  int groups = 0, tiles = 0;
  for (int e = lane; e < expert; e += kWarp) {
    const int n = (counts[e] + kGroup - 1) / kGroup;
    groups += n;
    tiles += (n + job.groups_per_tile - 1) / job.groups_per_tile;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    groups += shuffle_xor(groups, mask);
    tiles += shuffle_xor(tiles, mask);
  }
  const int begin = groups * kGroup, end = begin + counts[expert];
  int at = begin;
  for (int first = 0; first < job.n_slots && at < end; first += kWarp) {
    const bool is_mine = first + lane < job.n_slots && job.experts[first + lane] == expert;
    const uint32_t mine = ballot(is_mine);
    if (is_mine) job.slots[at + count_bits(mine & ((1u << lane) - 1))] = first + lane;
    at += count_bits(mine);
  }
  const int n_groups = (end - begin + kGroup - 1) / kGroup;
  const int n_tiles = (n_groups + job.groups_per_tile - 1) / job.groups_per_tile;
  for (int i = lane; i < n_tiles; i += kWarp) job.tiles[tiles + i] = {groups + i * job.groups_per_tile, end, expert};
  // The last one also says where nothing is.
  const bool is_last = expert == job.n_experts - 1;
  const int rows_end = is_last ? job.n_rows : begin + n_groups * kGroup;
  for (int row = end + lane; row < rows_end; row += kWarp) job.slots[row] = -1;
  for (int i = tiles + n_tiles + lane; is_last && i < job.n_tiles; i += kWarp) job.tiles[i] = {0, 0, -1};
}

__global__ void group_few(const GroupJob job) {
  __shared__ int32_t counts[kMostExperts];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int e = warp; e < job.n_experts; e += kThreads / kWarp) {
    const int n = count_slots(job, e, lane);
    if (lane == 0) counts[e] = n;
  }
  __syncthreads();
  for (int e = warp; e < job.n_experts; e += kThreads / kWarp) place_slots(job, counts, e, lane);
}

__global__ void count_many(const GroupJob job) {
  const int expert = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
  const int n = count_slots(job, expert, lane);
  if (lane == 0) job.counts[expert] = n;
}

__global__ void place_many(const GroupJob job) {
  place_slots(job, job.counts, static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x));
}

struct SumJob {
  const float* x;
  const float* weights;
  int n_used;
  int64_t n_tokens, n;
  float scale;
  bool accumulate;
  float* out;
  int64_t out_stride;
};

__global__ void add_up(const SumJob job) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, token = index / job.n;
  if (token >= job.n_tokens) return;
  float sum = 0.0f;
  for (int j = 0; j < job.n_used; ++j) {
    const int64_t slot = token * job.n_used + j;
    sum = fmaf(job.weights[slot], job.x[slot * job.n + index % job.n], sum);
  }
  float& to = job.out[token * job.out_stride + index % job.n];
  to = job.accumulate ? fmaf(job.scale, sum, to) : job.scale * sum;
}

unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

}  // namespace

void route(const ops::Context& context, const ops::Routing& routing, const float* logits, int64_t n_tokens,
           int32_t* experts, float* weights) {
  if (n_tokens == 0) return;
  if (routing.n_experts > kMostExperts) {
    throw Error(ErrorKind::unsupported,
                format_string("A layer has %d experts; the GPU computes up to %d.", routing.n_experts, kMostExperts),
                "Use the CPU with -ngl 0.");
  }
  launch(session_of(context).stream(), dim3(blocks_for(n_tokens, kThreads / kWarp)), dim3(kThreads), 0, choose, routing,
         logits, n_tokens, experts, weights);
}

SlotGroups slot_groups(int64_t n_slots, int64_t n_experts, int groups_per_tile) {
  const int64_t n_occupied = n_slots < n_experts ? n_slots : n_experts;
  const int64_t n_groups = (n_slots + (kGroup - 1) * n_occupied + kGroup - 1) / kGroup;
  return {n_groups * kGroup, groups_per_tile == 1 ? n_groups : n_groups / groups_per_tile + n_occupied};
}

int64_t expert_count_bytes() {
  return kMostExperts * static_cast<int64_t>(sizeof(int32_t));
}

Groups group_slots(Session& session, const ops::Chosen& chosen, int64_t n_tokens, int64_t n_experts, int most_groups) {
  const int64_t n_slots = n_tokens * chosen.n_used;
  Groups out;
  // Many slots of each expert: larger tiles read its matrix less often.
  out.groups_per_tile = n_slots > 2 * kGroup * n_experts ? most_groups : 1;
  const SlotGroups most = slot_groups(n_slots, n_experts, out.groups_per_tile);
  out.n_rows = static_cast<int>(most.n_rows);
  out.n_tiles = static_cast<int>(most.n_tiles);
  GroupJob job = {};
  job.experts = chosen.experts;
  job.n_slots = static_cast<int>(n_slots);
  job.n_experts = static_cast<int>(n_experts);
  job.groups_per_tile = out.groups_per_tile;
  job.n_tiles = out.n_tiles;
  job.n_rows = out.n_rows;
  const auto ints = [&](Session::Purpose purpose, int64_t n) {
    return reinterpret_cast<int32_t*>(session.scratch(purpose, n * static_cast<int64_t>(sizeof(int32_t))));
  };
  job.counts = reinterpret_cast<int32_t*>(session.scratch(Session::Purpose::expert_counts, expert_count_bytes()));
  job.slots = ints(Session::Purpose::expert_slots, out.n_rows);
  job.tiles = reinterpret_cast<ExpertTile*>(
      session.scratch(Session::Purpose::expert_tiles, out.n_tiles * static_cast<int64_t>(sizeof(ExpertTile))));
  out.slots = job.slots;
  out.tiles = job.tiles;
  const auto n_blocks = static_cast<unsigned>(n_experts);
  if (n_slots <= kFewSlots) {
    launch(session.stream(), dim3(1), dim3(kThreads), 0, group_few, job);
  } else {
    launch(session.stream(), dim3(n_blocks), dim3(kWarp), 0, count_many, job);
    launch(session.stream(), dim3(n_blocks), dim3(kWarp), 0, place_many, job);
  }
  return out;
}

void add_up_slots(Session& session, const float* x, const ops::Chosen& chosen, int64_t n_tokens, int64_t n, float scale,
                  bool accumulate, float* out, int64_t out_stride) {
  const SumJob job = {x, chosen.weights, chosen.n_used, n_tokens, n, scale, accumulate, out, out_stride};
  launch(session.stream(), dim3(blocks_for(n_tokens * n, kThreads)), dim3(kThreads), 0, add_up, job);
}

}  // namespace halfbyte::cuda
