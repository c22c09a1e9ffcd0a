// Many tokens on AMX's matrix unit. A unit of packed.h is a row of its second operand as it is, so that a tile holds a
// group's codes and a tile of sums comes out as 16 rows in the lanes of each token: from there on the sums are rescaled
// and added as matmul.h does it, in its order, to the same bits.
//
// Bound: the rescaling. Of 16 rows, a token and a group it takes 3 instructions (4 with minimums) on two pipes: 36 (48)
// cycles for 2 panels x 12 tokens, in which the unit needs 32, its stores 24 and all loads 33 (40). That many tokens,
// because 24 sums, scales and minimums are what the registers hold, and both panels share what is loaded of a token.
// Included by level files only, inside their anonymous namespace.

constexpr int kUnitPanels = 2, kUnitTokens = 12;

// A block of 12 tokens as the unit reads it: nine cache lines.
struct alignas(64) TokenBlock {
  int8_t q[kUnitTokens][32];
  float d[kUnitTokens];
  float dsum[3][kUnitTokens];  // d times the sum of columns 0 to 15, 16 to 31, and of all
};
static_assert(sizeof(TokenBlock) == 9 * 64);
static_assert(sizeof(TokenPiece) == kChunkBlocks * sizeof(TokenBlock));

inline TokenBlock* blocks_of(TokenPiece* piece) {
  return reinterpret_cast<TokenBlock*>(piece->bytes);
}
inline const TokenBlock* blocks_of(const TokenPiece* piece) {
  return reinterpret_cast<const TokenBlock*>(piece->bytes);
}

int64_t count_tiles(int64_t n_tokens) {
  return (n_tokens + kUnitTokens - 1) / kUnitTokens;
}

// Pieces lie as they are read: all tokens of a chunk, then the next chunk.
int64_t count_pieces(int64_t n_tokens, int64_t n_cols) {
  return (n_cols / 32 + kChunkBlocks - 1) / kChunkBlocks * count_tiles(n_tokens);
}

void arrange(const QuantizedRow* rows, int64_t n_tokens, int64_t n_cols, int64_t piece, TokenPiece* out) {
  const int64_t n_tiles = count_tiles(n_tokens), first_token = piece % n_tiles * kUnitTokens;
  const int64_t first = piece / n_tiles * kChunkBlocks, left = n_cols / 32 - first;
  const int n_blocks = left < kChunkBlocks ? static_cast<int>(left) : kChunkBlocks;
  TokenBlock* blocks = blocks_of(out);
  for (int t = 0; t < kUnitTokens; ++t) {
    const bool exists = first_token + t < n_tokens;  // tokens that do not are zeros, which nobody reads the sums of
    const QuantizedRow row = exists ? rows[first_token + t] : QuantizedRow{};
    for (int b = 0; b < n_blocks; ++b) {
      TokenBlock& block = blocks[b];
      const float d = exists ? row.d[first + b] : 0.0f;
      const int32_t low = exists ? row.sum[2 * (first + b)] : 0, high = exists ? row.sum[2 * (first + b) + 1] : 0;
      if (exists)
        __builtin_memcpy(block.q[t], row.q + 32 * (first + b), 32);
      else
        __builtin_memset(block.q[t], 0, 32);
      block.d[t] = d;
      block.dsum[0][t] = d * static_cast<float>(low);
      block.dsum[1][t] = d * static_cast<float>(high);
      block.dsum[2][t] = d * static_cast<float>(low + high);
    }
  }
}

// Tiles 0 and 1 hold tokens and 4 to 7 sums, of even and odd steps; 2 and 3 hold the panels' codes.
template <int n_groups>
constexpr TileShapes shapes_of_groups() {
  TileShapes shapes;
  for (int set = 0; set < 2; ++set) {
    shapes.rows[set] = kUnitTokens;
    shapes.row_bytes[set] = 32 / n_groups;
    shapes.rows[2 + set] = 8 / n_groups;
    shapes.row_bytes[2 + set] = 64;
    for (int p = 0; p < 2; ++p) {
      shapes.rows[4 + 2 * set + p] = kUnitTokens;
      shapes.row_bytes[4 + 2 * set + p] = 64;
    }
  }
  return shapes;
}
template <int n_groups>
constexpr TileShapes kGroupShapes = shapes_of_groups<n_groups>();

using UnitSums = int32_t[kUnitTokens][16];

// The sums of one group of P panels, with the tiles of one parity.
template <class L, int P, int set>
[[gnu::always_inline]] inline void multiply_group(const TokenBlock& tokens, int group, const uint8_t* codes,
                                                  UnitSums* sums) {
  codes += group * 64 * (8 / L::kGroups);
  tile_load<set>(tokens.q[0] + 16 * group, 32);
  tile_load<2>(codes, 64);
  tile_zero<4 + 2 * set>();
  tile_dot<4 + 2 * set, set, 2>();
  tile_store<4 + 2 * set>(sums[0], 64);
  if constexpr (P == 2) {
    tile_load<3>(codes + kChunkBlocks * kUnpackedBytes, 64);
    tile_zero<5 + 2 * set>();
    tile_dot<5 + 2 * set, set, 3>();
    tile_store<5 + 2 * set>(sums[1], 64);
  }
}

template <class L, int P, int T>
[[gnu::always_inline]] inline void add_group_sums(F16x (&acc)[P][T], const UnitSums* sums, const TokenBlock& tokens,
                                                  int group, const uint8_t* numbers) {
  F16x scales[P], minimums[P];
  for (int p = 0; p < P; ++p) {
    const float* of_panel = reinterpret_cast<const float*>(numbers + p * kChunkBlocks * kUnpackedBytes) + 16 * group;
    scales[p] = f_load(of_panel);
    if constexpr (L::kHasMin) minimums[p] = f_load(of_panel + 32);
  }
  const float* dsum = tokens.dsum[L::kGroups == 1 ? 2 : group];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) {
    const F16x d = f_set(tokens.d[t]);
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      acc[p][t] = f_fma(f_from(i_load(sums[p][t])), f_mul(scales[p], d), acc[p][t]);
      if constexpr (L::kHasMin) acc[p][t] = f_fma(minimums[p], f_set(dsum[t]), acc[p][t]);
    }
  }
}

// A step is a group of a block. Each step's products are asked for before the sums of the one before are added, so that
// the unit works while they are.
// GCC must be told to unroll, or it leaves the sums in memory.
template <class L, int P, int T>
void unit_tile(const uint8_t* workspace, int n_blocks, bool is_first, const TokenBlock* tokens, int n_tokens,
               float* out, int64_t out_stride) {
  alignas(64) UnitSums sums[2][P];
  F16x acc[P][T];
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t)
      acc[p][t] = is_first || t >= n_tokens ? f_zero() : f_load(out + p * out_stride + 16 * t);
  const int n_steps = n_blocks * L::kGroups;
  multiply_group<L, P, 0>(tokens[0], 0, workspace, sums[0]);
  for (int step = 0; step < n_steps; step += 2) {
    const int block = step / L::kGroups, odd = (step + 1) / L::kGroups, next = (step + 2) / L::kGroups;
    const uint8_t* here = workspace + block * kUnpackedBytes;
    if (step + 1 < n_steps)
      multiply_group<L, P, 1>(tokens[odd], L::kGroups - 1, workspace + odd * kUnpackedBytes, sums[1]);
    add_group_sums<L, P, T>(acc, sums[0], tokens[block], 0, here + 512);
    if (step + 1 == n_steps) break;
    if (step + 2 < n_steps) multiply_group<L, P, 0>(tokens[next], 0, workspace + next * kUnpackedBytes, sums[0]);
    add_group_sums<L, P, T>(acc, sums[1], tokens[odd], L::kGroups - 1, workspace + odd * kUnpackedBytes + 512);
  }
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t)
      if (t < n_tokens) f_store(out + p * out_stride + 16 * t, acc[p][t]);
}

template <class L, int P>
void unit_chunks(const uint8_t* panel, int64_t panel_bytes, int64_t n_cols, const TokenPiece* pieces, int n_tokens,
                 uint8_t* workspace, float* out) {
  const int64_t n_blocks = n_cols / 32, out_stride = int64_t{16} * n_tokens;
  // The unit takes signed codes, which need no correction for standing kOffset too high.
  const auto store = [](uint8_t* to, B64 codes) {
    b_store(to, L::kOffset == 0 ? codes : b_sub(codes, b_set(L::kOffset)));
  };
  for (int64_t first = 0; first < n_blocks; first += kChunkBlocks) {
    const int n = n_blocks - first < kChunkBlocks ? static_cast<int>(n_blocks - first) : kChunkBlocks;
    for (int p = 0; p < P; ++p)
      unpack_blocks<L>(panel + p * panel_bytes, first, n, workspace + p * kChunkBlocks * kUnpackedBytes, store);
    for (int t = 0; t < n_tokens; t += kUnitTokens, ++pieces) {
      const int some = n_tokens - t < kUnitTokens ? n_tokens - t : kUnitTokens;
      const auto multiply = some > 8 ? unit_tile<L, P, 12> : some > 4 ? unit_tile<L, P, 8> : unit_tile<L, P, 4>;
      multiply(workspace, n, first == 0, blocks_of(pieces), some, out + 16 * t, out_stride);
    }
  }
}

template <class L>
void unit_panels(const uint8_t* panel, int64_t panel_bytes, int n_panels, int64_t n_cols, const TokenPiece* pieces,
                 int n_tokens, uint8_t* workspace, float* out) {
  tile_shapes(kGroupShapes<L::kGroups>);
  const int64_t panel_floats = int64_t{16} * n_tokens;
  int p = 0;
  for (; p + kUnitPanels <= n_panels; p += kUnitPanels)
    unit_chunks<L, kUnitPanels>(panel + p * panel_bytes, panel_bytes, n_cols, pieces, n_tokens, workspace,
                                out + p * panel_floats);
  for (; p < n_panels; ++p)
    unit_chunks<L, 1>(panel + p * panel_bytes, panel_bytes, n_cols, pieces, n_tokens, workspace,
                      out + p * panel_floats);
  tile_release();
}

// The unit's rate alone: full tiles, four independent sums (see peak.h).
constexpr TileShapes full_tiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.rows[tile] = 16, shapes.row_bytes[tile] = 64;
  return shapes;
}
constexpr TileShapes kFullTiles = full_tiles();

int64_t unit_rounds(int64_t n_rounds, int64_t* n_products) {
  alignas(64) int8_t ones[16][64];
  __builtin_memset(ones, 1, sizeof ones);
  tile_shapes(kFullTiles);
  tile_load<0>(ones, 64);
  tile_load<1>(ones, 64);
  for (int64_t i = 0; i < n_rounds; ++i) {
    tile_dot<2, 0, 1>();
    tile_dot<3, 0, 1>();
    tile_dot<4, 0, 1>();
    tile_dot<5, 0, 1>();
  }
  alignas(64) int32_t sums[16][16];
  tile_store<2>(sums, 64);
  tile_release();
  *n_products = n_rounds * 4 * 16 * 16 * 64;
  return sums[0][0];
}
