// Encoders of IQ1_S and IQ1_M: entries of {-1, 0, 1}, all shifted by +1/8 or -1/8. Every entry is tried with both
// shifts at three scales.
#include "formats/codebooks.h"
#include "formats/iq1_m.h"
#include "formats/iq1_s.h"
#include "quantize/codebook.h"
#include "quantize/encoders.h"

namespace halfbyte::quantize {

namespace {

constexpr int kRounds = 2, kScaleTop = 7, kScales = 3;

const auto& prepared_book() {
  static const Codebook<3, 8, 2048> book(formats::kIq1Grid);
  return book;
}
using Book = std::decay_t<decltype(prepared_book())>;

// What a group's search needs besides its half tables.
template <class L>
struct Group {
  HalfTables<L, Book> first, second;
  L v_first[Book::kCombinations], v_second[Book::kCombinations];  // of importance v
  L w, x;                                                         // of importance, importance x

  void fill(ConstRows rows, ConstRows importance) {
    const Book& book = prepared_book();
    first.fill(book, rows, importance);
    second.fill(book, rows + 4, importance + 4);
    for (int c = 0; c < Book::kCombinations; ++c) {
      v_first[c] = v_second[c] = L{};
      for (int i = 0; i < 4; ++i) {
        v_first[c] += load<L>(importance[i]) * book.combinations[c][i];
        v_second[c] += load<L>(importance[4 + i]) * book.combinations[c][i];
      }
    }
    w = x = L{};
    for (int i = 0; i < 8; ++i) {
      w += load<L>(importance[i]);
      x += load<L>(importance[i]) * load<L>(rows[i]);
    }
  }
};

// Best entry and its score (error less sum importance x^2) by shift (0: +1/8, 1: -1/8) and scale.
template <class L>
struct Found {
  L score[2][kScales], entry[2][kScales];
};

template <class L>
Found<L> search_entries(const Group<L>& group, const L (&scale)[kScales]) {
  const Book& book = prepared_book();
  Found<L> found;
  for (int sign = 0; sign < 2; ++sign) {
    for (int c = 0; c < kScales; ++c) {
      found.score[sign][c] = lanes_of<L>(3e38f);
      found.entry[sign][c] = L{};
    }
  }
  constexpr float delta = formats::kIq1Delta;
  const L shift_x = group.x * (2.0f * delta), shift_w = group.w * (delta * delta);
  for (int k = 0; k < Book::kEntries; ++k) {
    const int a = book.first[k], b = book.second[k];
    const L xv = (group.first.xv[a] + group.second.xv[b]) * 2.0f;
    const L vv = group.first.vv[a] + group.second.vv[b] + shift_w;
    const L v = (group.v_first[a] + group.v_second[b]) * (2.0f * delta);
    const L id = lanes_of<L>(static_cast<float>(k));
    for (int sign = 0; sign < 2; ++sign) {
      const L squares = sign == 0 ? vv + v : vv - v, product = sign == 0 ? xv + shift_x : xv - shift_x;
      for (int c = 0; c < kScales; ++c) {
        const L rest = scale[c] * squares - product;
        const auto better = rest < found.score[sign][c];
        found.score[sign][c] = choose(better, rest, found.score[sign][c]);
        found.entry[sign][c] = choose(better, id, found.entry[sign][c]);
      }
    }
  }
  for (auto& scores : found.score) {
    for (int c = 0; c < kScales; ++c) scores[c] = scores[c] * scale[c];
  }
  return found;
}

struct Coded {
  alignas(64) float scales[16][kLanes];
  alignas(64) float negative[32][kLanes];  // per group: 1 where the shift is -1/8
  alignas(64) float entries[32][kLanes];
};

// n weights share a scale; they share a shift too, or each group of eight has its own.
template <class L, int n, bool own_shift>
L fit_ternary(const Tile& tile, Coded& coded) {
  constexpr int n_scales = 256 / n, n_groups = n / 8;
  constexpr float delta = formats::kIq1Delta;
  const Book& book = prepared_book();
  constexpr SortedTable<3> above = {{-1 + delta, delta, 1 + delta}}, below = {{-1 - delta, -delta, 1 - delta}};
  L fitted[n_scales], largest{};
  for (int k = 0; k < n_scales; ++k) {
    const PositiveFit<L> up = fit_positive_scale<L>(tile.x + n * k, tile.importance + n * k, n, above),
                         down = fit_positive_scale<L>(tile.x + n * k, tile.importance + n * k, n, below);
    fitted[k] = choose(up.gain > down.gain, up.scale, down.scale);
    largest = larger(fitted[k], largest);
  }
  L d = as_f16(largest * (1.0f / (2 * kScaleTop + 1))), best_d{}, best_score = lanes_of<L>(3e38f);
  Group<L> group;
  for (int round = 0; round < kRounds; ++round) {
    const L inverse = ratio(lanes_of<L>(0.5f), d);
    L total{}, numerator{}, denominator{};
    Coded now = {};
    for (int k = 0; k < n_scales; ++k) {
      const L nearest = rounded(fitted[k] * inverse - 0.5f);
      L code[kScales], scale[kScales];
      for (int c = 0; c < kScales; ++c) {
        code[c] = clamped(nearest + static_cast<float>(c - 1), 0.0f, kScaleTop);
        scale[c] = d * (code[c] * 2.0f + 1.0f);
      }
      Found<L> found[n_groups];
      L score[kScales] = {}, shared[2][kScales] = {};
      for (int g = 0; g < n_groups; ++g) {
        group.fill(tile.x + n * k + 8 * g, tile.importance + n * k + 8 * g);
        found[g] = search_entries(group, scale);
        for (int c = 0; c < kScales; ++c) {
          score[c] += smaller(found[g].score[1][c], found[g].score[0][c]);
          shared[0][c] += found[g].score[0][c];
          shared[1][c] += found[g].score[1][c];
        }
      }
      if (!own_shift) {
        for (int c = 0; c < kScales; ++c) score[c] = smaller(shared[1][c], shared[0][c]);
      }
      const auto lower = score[0] < score[1];
      L best = choose(lower, score[0], score[1]), best_code = choose(lower, code[0], code[1]);
      const auto upper = score[2] < best;
      const auto pick = [&](const L(&of)[kScales]) { return choose(upper, of[2], choose(lower, of[0], of[1])); };
      total += choose(upper, score[2], best);
      best_code = choose(upper, code[2], best_code);
      store(now.scales[k], best_code);
      const L multiplier = best_code * 2.0f + 1.0f;
      for (int g = 0; g < n_groups; ++g) {
        const auto down =
            own_shift ? pick(found[g].score[1]) < pick(found[g].score[0]) : pick(shared[1]) < pick(shared[0]);
        const int at = n_groups * k + g;
        store(now.negative[at], choose(down, lanes_of<L>(1.0f), L{}));
        store(now.entries[at], choose(down, pick(found[g].entry[1]), pick(found[g].entry[0])));
        L xv{}, vv{};
        for (int i = 0; i < 8; ++i) {
          alignas(64) float v[kLanes];
          for (int lane = 0; lane < kLanes; ++lane)
            v[lane] =
                book.values[static_cast<int>(now.entries[at][lane])][i] + delta - 2 * delta * now.negative[at][lane];
          const L wv = load<L>(tile.importance[8 * at + i]) * load<L>(v);
          xv += wv * load<L>(tile.x[8 * at + i]);
          vv += wv * load<L>(v);
        }
        numerator += multiplier * xv;
        denominator += multiplier * multiplier * vv;
      }
    }
    const auto better = total < best_score;
    best_score = choose(better, total, best_score);
    best_d = choose(better, d, best_d);
    for (int k = 0; k < n_scales; ++k)
      store(coded.scales[k], choose(better, load<L>(now.scales[k]), load<L>(coded.scales[k])));
    for (int g = 0; g < 32; ++g) {
      store(coded.negative[g], choose(better, load<L>(now.negative[g]), load<L>(coded.negative[g])));
      store(coded.entries[g], choose(better, load<L>(now.entries[g]), load<L>(coded.entries[g])));
    }
    d = as_f16(ratio(numerator, denominator));
  }
  return best_d;
}

template <class L, int n, bool own_shift, class Pack>
void encode_ternary(const Tile& tile, uint8_t* const* out, Pack pack) {
  Coded coded = {};
  alignas(64) float ds[kLanes];
  store(ds, as_f16(fit_ternary<L, n, own_shift>(tile, coded) * kUnshrinkTwoBits));
  for (int lane = 0; lane < kLanes; ++lane) {
    uint8_t scales[16], negative[32];
    uint16_t entries[32];
    lane_codes(coded.scales, 256 / n, lane, 0.0f, scales);
    lane_codes(coded.negative, 32, lane, 0.0f, negative);
    for (int g = 0; g < 32; ++g) entries[g] = static_cast<uint16_t>(coded.entries[g][lane]);
    pack(ds[lane], scales, negative, entries, out[lane]);
  }
}

template <class L>
void encode_iq1_s(const Tile& tile, uint8_t* const* out) {
  encode_ternary<L, 32, false>(
      tile, out, [](float d, const uint8_t* s, const uint8_t* negative, const uint16_t* entries, uint8_t* b) {
        uint8_t per_scale[8];
        for (int k = 0; k < 8; ++k) per_scale[k] = negative[4 * k];
        formats::IQ1_S::pack(d, s, per_scale, entries, b);
      });
}
template <class L>
void encode_iq1_m(const Tile& tile, uint8_t* const* out) {
  encode_ternary<L, 16, true>(tile, out, formats::IQ1_M::pack);
}

}  // namespace

HALFBYTE_TILE_ENCODER(iq1_s, none)
HALFBYTE_TILE_ENCODER(iq1_m, none)

}  // namespace halfbyte::quantize
