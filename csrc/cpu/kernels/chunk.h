// A chunk of a panel unpacked for many tokens: kChunkBlocks blocks of codes and numbers that stay in the first cache
// while all tokens pass over them. A block unpacked is 8 x 64 bytes of codes, then 2 scales and 2 minimums of 16
// floats. Included by level files only, inside their anonymous namespace.
constexpr int kUnpackedBytes = 512 + 4 * 64;
constexpr int kChunkBlocks = 16;

// store(to, codes) writes a unit's 64 codes as the level multiplies them. The panel's next chunk is fetched into the
// second cache meanwhile: tiles hide that time, and no hardware follows two panels in turns.
template <class L, class Store>
void unpack_blocks(const uint8_t* panel, int64_t first_block, int n_blocks, uint8_t* workspace, Store store) {
  static_assert(kChunkBlocks % L::kSuper == 0);
  constexpr int kChunkBytes = kChunkBlocks / L::kSuper * L::kHeadBytes + kChunkBlocks * L::kBlockBytes;
  panel += first_block / L::kSuper * L::kHeadBytes + first_block * L::kBlockBytes;
  for (int block = 0; block < n_blocks;) {
    const auto head = L::head(panel);
    panel += L::kHeadBytes;
    for (int b = 0; b < L::kSuper; ++b, ++block, panel += L::kBlockBytes, workspace += kUnpackedBytes) {
      for (int line = 0; line < L::kBlockBytes; line += 64) __builtin_prefetch(panel + kChunkBytes + line, 0, 2);
      B64 codes[8];
      L::codes(head, panel, codes);
      for (int c = 0; c < 8; ++c) store(workspace + 64 * c, codes[c]);
      float* numbers = reinterpret_cast<float*>(workspace + 512);
      for (int g = 0; g < L::kGroups; ++g) {
        f_store(numbers + 16 * g, L::scale(head, panel, g));
        if constexpr (L::kHasMin) f_store(numbers + 32 + 16 * g, L::minimum(head, panel, g));
      }
    }
  }
}
