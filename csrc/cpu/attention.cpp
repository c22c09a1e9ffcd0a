// Attention over block tables: work is (sequence rows, kv head, segment of positions); segments merge in order.
//
// Positions are cut into segments of 512 at fixed places. Each segment gives a maximum, a total and a weighted sum per
// query; they are merged in increasing order. The cut depends on nothing but the position, so any batch, chunking and
// number of threads gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/backend.h"
#include "ops/reference/reference.h"

namespace halfbyte::cpu {

namespace {

constexpr int64_t kSegment = 512;
constexpr int kTile = 8;  // queries of one kernel call
constexpr float kLowest = -3e38f;

// Up to kTile (row, head) pairs of one span that share a kv head.
struct Item {
  const ops::AttentionSpan* span;
  int kv_head;
  int64_t first_pair;  // pairs are row * group + head-in-group
  int n_pairs;
  int64_t begin, end;  // segments' positions: [begin, end), begin a multiple of kSegment
};

int kernel_width(int n) {
  return n <= 4 ? n : n <= 6 ? 6 : kTile;
}

struct Tile {
  const float* queries[kTile];
  float* outs[kTile];
  int64_t first[kTile], last[kTile];
  float sinks[kTile];
};

// Fills a tile; lanes past n_pairs repeat the first query but see nothing.
void fill_tile(const ops::AttentionArgs& args, const Item& item, Tile& tile) {
  const int group = args.n_heads / args.layout.n_kv_heads;
  for (int i = 0; i < kTile; ++i) {
    const int64_t pair = item.first_pair + (i < item.n_pairs ? i : 0), row = pair / group;
    const int head = item.kv_head * group + static_cast<int>(pair % group);
    const int64_t position = item.span->first_position + row;
    tile.queries[i] = args.query + (item.span->first_row + row) * args.query_stride +
                      static_cast<int64_t>(head) * args.layout.key_dim;
    tile.outs[i] =
        args.out + (item.span->first_row + row) * args.out_stride + static_cast<int64_t>(head) * args.layout.value_dim;
    tile.first[i] = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
    tile.last[i] = i < item.n_pairs ? position : -1;
    tile.sinks[i] = args.sinks != nullptr ? args.sinks[head] : kLowest;
  }
}

// The queries of a tile as (key_dim, width).
void pack_queries(const Tile& tile, int width, int key_dim, float* packed) {
  for (int d = 0; d < key_dim; ++d)
    for (int q = 0; q < width; ++q) *packed++ = tile.queries[q][d];
}

// highest, total and sum of each query over one segment.
void run_segment(const Backend& b, const ops::AttentionArgs& args, const Item& item, const Tile& tile,
                 const float* packed, int64_t begin, int64_t end, float* state) {
  const int width = kernel_width(item.n_pairs);
  float* highest = state;
  float* total = state + kTile;
  float* sum = state + 2 * kTile;
  std::fill_n(highest, kTile, kLowest);
  std::fill_n(total, kTile, 0.0f);
  std::fill_n(sum, static_cast<int64_t>(width) * args.layout.value_dim, 0.0f);
  AttentionTask task;
  task.queries = packed;
  task.first = tile.first;
  task.last = tile.last;
  task.n_queries = width;
  task.kv = args.kv;
  task.block_table = item.span->block_table;
  task.block_bytes = args.layout.stride();
  task.head_offset = item.kv_head * args.layout.head_bytes();
  task.value_offset = args.layout.key_tile_bytes();
  task.k_type = static_cast<int>(args.layout.k_type);
  task.v_type = static_cast<int>(args.layout.v_type);
  task.key_dim = args.layout.key_dim;
  task.value_dim = args.layout.value_dim;
  task.scale = args.scale;
  task.softcap = args.softcap;
  task.begin = begin;
  task.end = end;
  task.highest = highest;
  task.total = total;
  task.sum = sum;
  b.kernels.attend(task);
}

// Merges a later segment's state into an earlier one's.
void merge(const ops::AttentionArgs& args, int n_pairs, float* into, const float* from) {
  const int dim = args.layout.value_dim;
  for (int q = 0; q < n_pairs; ++q) {
    if (from[kTile + q] <= 0) continue;
    const float highest = std::max(into[q], from[q]);
    const float keep = into[kTile + q] > 0 ? std::exp(into[q] - highest) : 0.0f, take = std::exp(from[q] - highest);
    into[q] = highest;
    into[kTile + q] = into[kTile + q] * keep + from[kTile + q] * take;
    float* a = into + 2 * kTile + q * dim;
    const float* c = from + 2 * kTile + q * dim;
    for (int d = 0; d < dim; ++d) a[d] = a[d] * keep + c[d] * take;
  }
}

void write_out(const ops::AttentionArgs& args, const Item& item, const Tile& tile, const float* state) {
  const int dim = args.layout.value_dim;
  for (int q = 0; q < item.n_pairs; ++q) {
    float total = state[kTile + q], factor = 1.0f;
    if (args.sinks != nullptr) {
      const float highest = std::max(state[q], tile.sinks[q]);
      factor = std::exp(state[q] - highest);
      total = total * factor + std::exp(tile.sinks[q] - highest);
    }
    const float scale = total > 0 ? factor / total : 0.0f;
    const float* sum = state + 2 * kTile + q * dim;
    for (int d = 0; d < dim; ++d) tile.outs[q][d] = sum[d] * scale;
  }
}

}  // namespace

void attention(const ops::Context& context, const ops::AttentionArgs& args) {
  const Backend& b = backend_of(context);
  if (args.layout.value_dim % 16 != 0) return ops::reference::attention(context, args);
  const int group = args.n_heads / args.layout.n_kv_heads;
  const int64_t state_floats = 2 * kTile + int64_t{kTile} * args.layout.value_dim;
  const int64_t query_floats = int64_t{kTile} * args.layout.key_dim;

  std::vector<Item> items;
  int64_t n_segments = 0, most_segments = 1;
  for (const ops::AttentionSpan& span : args.spans) {
    for (int kv_head = 0; kv_head < args.layout.n_kv_heads; ++kv_head) {
      for (int64_t pair = 0; pair < span.n_rows * group; pair += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, span.n_rows * group - pair));
        const int64_t first_position = span.first_position + pair / group;
        const int64_t begin =
            args.window > 0 ? std::max<int64_t>(0, first_position - args.window + 1) / kSegment * kSegment : 0;
        const int64_t end = span.first_position + (pair + n - 1) / group + 1;
        items.push_back({&span, kv_head, pair, n, begin, end});
        const int64_t segments = (end - begin + kSegment - 1) / kSegment;
        n_segments += segments;
        most_segments = std::max(most_segments, segments);
      }
    }
  }

  const auto n_items = static_cast<int64_t>(items.size());
  const bool split_segments = n_items < 4 * context.pool->size() && most_segments > 1;
  if (!split_segments) {
    // Enough items for everyone: each worker takes whole items, its segments one after another.
    float* states =
        b.scratch(context).partial.at_least<float>((2 * state_floats + query_floats) * context.pool->size());
    const auto run_items = [&](int64_t from, int64_t to, int worker) {
      float* state = states + (2 * state_floats + query_floats) * worker;
      float* packed = state + 2 * state_floats;
      for (int64_t i = from; i < to; ++i) {
        // Late rows see more positions than early ones: pair the ends, so that workers get equal sums.
        const Item& item = items[static_cast<size_t>(i % 2 == 0 ? i / 2 : n_items - 1 - i / 2)];
        Tile tile;
        fill_tile(args, item, tile);
        pack_queries(tile, kernel_width(item.n_pairs), args.layout.key_dim, packed);
        run_segment(b, args, item, tile, packed, item.begin, std::min(item.end, item.begin + kSegment), state);
        for (int64_t p = item.begin + kSegment; p < item.end; p += kSegment) {
          run_segment(b, args, item, tile, packed, p, std::min(item.end, p + kSegment), state + state_floats);
          merge(args, item.n_pairs, state, state + state_floats);
        }
        write_out(args, item, tile, state);
      }
    };
    if (n_items == 1)
      run_items(0, 1, 0);
    else
      context.pool->parallel_for(n_items, 1, run_items);
    return;
  }

  // Few items over many positions (decoding at depth): segments are the unit of work.
  float* states =
      b.scratch(context).partial.at_least<float>(n_segments * state_floats + query_floats * context.pool->size());
  std::vector<std::pair<size_t, int64_t>> work;  // item, position where the segment begins
  for (size_t i = 0; i < items.size(); ++i) {
    for (int64_t p = items[i].begin; p < items[i].end; p += kSegment) work.emplace_back(i, p);
  }
  context.pool->parallel_for(static_cast<int64_t>(work.size()), 1, [&](int64_t from, int64_t to, int worker) {
    float* packed = states + n_segments * state_floats + query_floats * worker;
    for (int64_t i = from; i < to; ++i) {
      const auto& [index, begin] = work[static_cast<size_t>(i)];
      Tile tile;
      fill_tile(args, items[index], tile);
      pack_queries(tile, kernel_width(items[index].n_pairs), args.layout.key_dim, packed);
      run_segment(b, args, items[index], tile, packed, begin, std::min(items[index].end, begin + kSegment),
                  states + i * state_floats);
    }
  });
  float* state = states;
  for (const Item& item : items) {
    Tile tile;
    fill_tile(args, item, tile);
    float* first = state;
    state += state_floats;
    for (int64_t p = item.begin + kSegment; p < item.end; p += kSegment, state += state_floats)
      merge(args, item.n_pairs, first, state);
    write_out(args, item, tile, first);
  }
}

}  // namespace halfbyte::cpu
