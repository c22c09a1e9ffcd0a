// Encoders of IQ2_* and IQ3_*: every entry of the codebook is tried, with exact errors, at three scales a group.
#include "formats/codebooks.h"
#include "formats/iq2_s.h"
#include "formats/iq2_xs.h"
#include "formats/iq2_xxs.h"
#include "formats/iq3_s.h"
#include "formats/iq3_xxs.h"
#include "quantize/codebook.h"
#include "quantize/encoders.h"

namespace halfbyte::quantize {

namespace {

constexpr int kRounds = 2;
constexpr int kScaleTop = 15;

// A format: its codebook, weights a scale, the multiplier base + step * s of d, whether signs come in even numbers, and
// what d is multiplied by at last (see kUnshrinkTwoBits).
struct Iq2xxs {
  static const auto& book() {
    static const Codebook<3, 8, 256> prepared(formats::kIq2xxsGrid);
    return prepared;
  }
  static constexpr int kScaleWeights = 32;
  static constexpr float kBase = 0.125f, kStep = 0.25f;
  static constexpr bool kEvenSigns = true;
  static constexpr float kUnshrink = kUnshrinkTwoBits;
};
struct Iq2xs {
  static const auto& book() {
    static const Codebook<3, 8, 512> prepared(formats::kIq2xsGrid);
    return prepared;
  }
  static constexpr int kScaleWeights = 16;
  static constexpr float kBase = 0.125f, kStep = 0.25f;
  static constexpr bool kEvenSigns = true;
  static constexpr float kUnshrink = 1.0f;
};
struct Iq2s {
  static const auto& book() {
    static const Codebook<3, 8, 1024> prepared(formats::kIq2sGrid);
    return prepared;
  }
  static constexpr int kScaleWeights = 16;
  static constexpr float kBase = 0.125f, kStep = 0.25f;
  static constexpr bool kEvenSigns = false;
  static constexpr float kUnshrink = kUnshrinkTwoBits;
};
struct Iq3xxs {
  static const auto& book() {
    static const Codebook<8, 4, 256> prepared(formats::kIq3xxsGrid);
    return prepared;
  }
  static constexpr int kScaleWeights = 32;
  static constexpr float kBase = 0.25f, kStep = 0.5f;
  static constexpr bool kEvenSigns = true;
  static constexpr float kUnshrink = 1.005f;
};
struct Iq3s {
  static const auto& book() {
    static const Codebook<8, 4, 512> prepared(formats::kIq3sGrid);
    return prepared;
  }
  static constexpr int kScaleWeights = 32;
  static constexpr float kBase = 1.0f, kStep = 2.0f;
  static constexpr bool kEvenSigns = false;
  static constexpr float kUnshrink = 1.0f;
};

struct Coded {
  alignas(64) float scales[16][kLanes];
  alignas(64) float entries[64][kLanes];
};

// Splits each group of eight into magnitudes and a sign byte. Where only even numbers of signs can be stored, the sign
// whose loss costs least is given up: its magnitude goes on as a negative number.
template <class L>
void split_signs(const Tile& tile, bool even, float (&magnitudes)[256][kLanes], uint8_t (&signs)[kLanes][32]) {
  for (int g = 0; g < 32; ++g) {
    alignas(64) float cost[8][kLanes];
    for (int i = 0; i < 8; ++i) {
      const L x = load<L>(tile.x[8 * g + i]), size = magnitude(x);
      store(magnitudes[8 * g + i], size);
      store(cost[i], size * load<L>(tile.importance[8 * g + i]));
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      unsigned bits = 0;
      int cheapest = 0;
      for (int i = 0; i < 8; ++i) {
        bits |= (tile.x[8 * g + i][lane] < 0.0f ? 1u : 0u) << i;
        if (cost[i][lane] < cost[cheapest][lane]) cheapest = i;
      }
      if (even && (__builtin_popcount(bits) & 1) != 0) {
        bits ^= 1u << cheapest;
        magnitudes[8 * g + cheapest][lane] = -magnitudes[8 * g + cheapest][lane];
      }
      signs[lane][g] = static_cast<uint8_t>(bits);
    }
  }
}

// The best entry for one group at each of three scales: adds its score (error less sum importance x^2) to `score`.
template <class L, class Book>
void search_entries(const Book& book, const HalfTables<L, Book>& first, const HalfTables<L, Book>& second,
                    const L (&scale)[3], L (&score)[3], L (&entry)[3]) {
  L best[3] = {lanes_of<L>(3e38f), lanes_of<L>(3e38f), lanes_of<L>(3e38f)};
  entry[0] = entry[1] = entry[2] = L{};
  for (int k = 0; k < Book::kEntries; ++k) {
    const int a = book.first[k], b = book.second[k];
    const L xv = (first.xv[a] + second.xv[b]) * 2.0f, vv = first.vv[a] + second.vv[b];
    const L id = lanes_of<L>(static_cast<float>(k));
    for (int c = 0; c < 3; ++c) {
      const L rest = scale[c] * vv - xv;
      const auto better = rest < best[c];
      best[c] = choose(better, rest, best[c]);
      entry[c] = choose(better, id, entry[c]);
    }
  }
  for (int c = 0; c < 3; ++c) score[c] += scale[c] * best[c];
}

// d, with scales and entries filled in.
template <class L, class Format>
L fit_codebook(const Tile& tile, const float (&magnitudes)[256][kLanes], Coded& coded) {
  const auto& book = Format::book();
  using Book = std::decay_t<decltype(book)>;
  constexpr int n = Format::kScaleWeights, n_scales = 256 / n, n_groups = n / Book::kDims;
  constexpr float top = Format::kBase + Format::kStep * kScaleTop;
  L fitted[n_scales], largest{};
  for (int k = 0; k < n_scales; ++k) {
    fitted[k] = fit_positive_scale<L>(magnitudes + n * k, tile.importance + n * k, n, book.levels).scale;
    largest = larger(fitted[k], largest);
  }
  L d = as_f16(largest * (1.0f / top)), best_d{}, best_score = lanes_of<L>(3e38f);
  HalfTables<L, Book> first, second;
  for (int round = 0; round < kRounds; ++round) {
    const L inverse = ratio(lanes_of<L>(1.0f / Format::kStep), d);
    L total{}, numerator{}, denominator{};
    Coded now;
    for (int k = 0; k < n_scales; ++k) {
      const L nearest = rounded(fitted[k] * inverse - Format::kBase / Format::kStep);
      L code[3], scale[3], score[3] = {}, entry[n_groups][3];
      for (int c = 0; c < 3; ++c) {
        code[c] = clamped(nearest + static_cast<float>(c - 1), 0.0f, kScaleTop);
        scale[c] = d * (code[c] * Format::kStep + Format::kBase);
      }
      for (int g = 0; g < n_groups; ++g) {
        const int at = n * k + Book::kDims * g;
        first.fill(book, magnitudes + at, tile.importance + at);
        second.fill(book, magnitudes + at + Book::kHalf, tile.importance + at + Book::kHalf);
        search_entries(book, first, second, scale, score, entry[g]);
      }
      const auto lower = score[0] < score[1];
      L best_code = choose(lower, code[0], code[1]), best_of_three = choose(lower, score[0], score[1]);
      const auto upper = score[2] < best_of_three;
      best_code = choose(upper, code[2], best_code);
      total += choose(upper, score[2], best_of_three);
      store(now.scales[k], best_code);
      const L multiplier = best_code * Format::kStep + Format::kBase;
      for (int g = 0; g < n_groups; ++g) {
        float* entries = now.entries[n_groups * k + g];
        store(entries, choose(upper, entry[g][2], choose(lower, entry[g][0], entry[g][1])));
        const int at = n * k + Book::kDims * g;
        L xv{}, vv{};
        for (int i = 0; i < Book::kDims; ++i) {
          alignas(64) float v[kLanes];
          for (int lane = 0; lane < kLanes; ++lane) v[lane] = book.values[static_cast<int>(entries[lane])][i];
          const L wv = load<L>(tile.importance[at + i]) * load<L>(v);
          xv += wv * load<L>(magnitudes[at + i]);
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
    for (int g = 0; g < 256 / Book::kDims; ++g)
      store(coded.entries[g], choose(better, load<L>(now.entries[g]), load<L>(coded.entries[g])));
    d = as_f16(ratio(numerator, denominator));
  }
  return best_d;
}

template <class L, class Format, class Pack>
void encode_with(const Tile& tile, uint8_t* const* out, Pack pack) {
  alignas(64) float magnitudes[256][kLanes], ds[kLanes];
  uint8_t signs[kLanes][32];
  split_signs<L>(tile, Format::kEvenSigns, magnitudes, signs);
  Coded coded = {};
  store(ds, as_f16(fit_codebook<L, Format>(tile, magnitudes, coded) * Format::kUnshrink));
  for (int lane = 0; lane < kLanes; ++lane) {
    uint8_t scales[16];
    uint16_t entries[64];
    lane_codes(coded.scales, 256 / Format::kScaleWeights, lane, 0.0f, scales);
    for (int g = 0; g < 64; ++g) entries[g] = static_cast<uint16_t>(coded.entries[g][lane]);
    pack(ds[lane], scales, entries, signs[lane], out[lane]);
  }
}

template <class L>
void encode_iq2_xxs(const Tile& tile, uint8_t* const* out) {
  encode_with<L, Iq2xxs>(tile, out, formats::IQ2_XXS::pack);
}
template <class L>
void encode_iq2_xs(const Tile& tile, uint8_t* const* out) {
  encode_with<L, Iq2xs>(tile, out, formats::IQ2_XS::pack);
}
template <class L>
void encode_iq2_s(const Tile& tile, uint8_t* const* out) {
  encode_with<L, Iq2s>(tile, out, formats::IQ2_S::pack);
}
template <class L>
void encode_iq3_xxs(const Tile& tile, uint8_t* const* out) {
  encode_with<L, Iq3xxs>(tile, out, formats::IQ3_XXS::pack);
}
template <class L>
void encode_iq3_s(const Tile& tile, uint8_t* const* out) {
  encode_with<L, Iq3s>(tile, out, formats::IQ3_S::pack);
}

}  // namespace

HALFBYTE_TILE_ENCODER(iq2_xxs, none)
HALFBYTE_TILE_ENCODER(iq2_xs, magnitude)
HALFBYTE_TILE_ENCODER(iq2_s, none)
HALFBYTE_TILE_ENCODER(iq3_xxs, none)
HALFBYTE_TILE_ENCODER(iq3_s, magnitude)

}  // namespace halfbyte::quantize
