// The panel layouts of ops/packed.h as vectors: codes of 32 columns, and the scales that belong to them.
// Included by level files only, inside their anonymous namespace.

inline void unpack_nibbles(const uint8_t* p, B64 codes[8]) {
  const B64 mask = b_set(15);
  for (int v = 0; v < 4; ++v) {
    const B64 both = b_load(p + 64 * v);
    codes[v] = b_and(both, mask);
    codes[v + 4] = b_and(b_shr<4>(both), mask);
  }
}

// The bit plane's bit of unit c, at bit `to` of each byte (to is 1, 2 or 4).
template <int c, int to>
inline B64 plane_bit(B64 plane) {
  const B64 mask = b_set(1 << to);
  if constexpr (c <= to)
    return b_and(b_shl<to - c>(plane), mask);
  else
    return b_and(b_shr<c - to>(plane), mask);
}

template <int to>
inline void or_bit_plane(const uint8_t* p, B64 codes[8]) {
  const B64 plane = b_load(p);
  codes[0] = b_or(codes[0], plane_bit<0, to>(plane));
  codes[1] = b_or(codes[1], plane_bit<1, to>(plane));
  codes[2] = b_or(codes[2], plane_bit<2, to>(plane));
  codes[3] = b_or(codes[3], plane_bit<3, to>(plane));
  codes[4] = b_or(codes[4], plane_bit<4, to>(plane));
  codes[5] = b_or(codes[5], plane_bit<5, to>(plane));
  codes[6] = b_or(codes[6], plane_bit<6, to>(plane));
  codes[7] = b_or(codes[7], plane_bit<7, to>(plane));
}

inline void unpack_two_bits(const uint8_t* p, B64 codes[8]) {
  const B64 mask = b_set(3);
  for (int h = 0; h < 2; ++h) {
    const B64 four = b_load(p + 64 * h);
    codes[4 * h] = b_and(four, mask);
    codes[4 * h + 1] = b_and(b_shr<2>(four), mask);
    codes[4 * h + 2] = b_and(b_shr<4>(four), mask);
    codes[4 * h + 3] = b_and(b_shr<6>(four), mask);
  }
}

inline void or_two_high_bits(const uint8_t* p, B64 codes[8]) {
  const B64 mask = b_set(0x30);
  for (int h = 0; h < 2; ++h) {
    const B64 four = b_load(p + 64 * h);
    codes[4 * h] = b_or(codes[4 * h], b_and(b_shl<4>(four), mask));
    codes[4 * h + 1] = b_or(codes[4 * h + 1], b_and(b_shl<2>(four), mask));
    codes[4 * h + 2] = b_or(codes[4 * h + 2], b_and(four, mask));
    codes[4 * h + 3] = b_or(codes[4 * h + 3], b_and(b_shr<2>(four), mask));
  }
}

inline void look_up(const uint8_t* table, B64 codes[8]) {
  for (int c = 0; c < 8; ++c) codes[c] = b_lookup(table, codes[c]);
}

// Tables of IQ4 and FP4, 128 and 12 added so that they are unsigned.
alignas(16) constexpr uint8_t kIq4Table[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) constexpr uint8_t kFp4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

struct NoHead {};
struct ScaleHead {
  F16x d;
};
struct ScaleMinHead {
  F16x d, dmin;
};
struct TableHead {
  F16x d;
  const uint8_t* table;
};

// A layout: kSuper blocks of 32 columns follow a head of kHeadBytes; kGroups scales a block; codes are at
// most kMaxCode and stand kOffset too high.
struct PanelQ4_0 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 32 + 256, kGroups = 1, kOffset = 8, kMaxCode = 15;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) { unpack_nibbles(p + 32, out); }
};
struct PanelQ4_1 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 64 + 256, kGroups = 1, kOffset = 0, kMaxCode = 15;
  static constexpr bool kHasMin = true;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static F16x minimum(NoHead, const uint8_t* p, int) { return f_load_f16(p + 32); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) { unpack_nibbles(p + 64, out); }
};
struct PanelQ5_0 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 32 + 320, kGroups = 1, kOffset = 16, kMaxCode = 31;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 32, out);
    or_bit_plane<4>(p + 288, out);
  }
};
struct PanelQ5_1 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 64 + 320, kGroups = 1, kOffset = 0, kMaxCode = 31;
  static constexpr bool kHasMin = true;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static F16x minimum(NoHead, const uint8_t* p, int) { return f_load_f16(p + 32); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 64, out);
    or_bit_plane<4>(p + 320, out);
  }
};
struct PanelQ8_0 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 32 + 512, kGroups = 1, kOffset = 128, kMaxCode = 255;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    for (int c = 0; c < 8; ++c) out[c] = b_load(p + 32 + 64 * c);
  }
};
struct PanelIQ4_NL {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 32 + 256, kGroups = 1, kOffset = 128, kMaxCode = 255;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int) { return f_load_f16(p); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 32, out);
    look_up(kIq4Table, out);
  }
};
struct PanelMXFP4 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 16 + 256, kGroups = 1, kOffset = 12, kMaxCode = 24;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  // 2^(e-128) as a product of two powers, so that neither overflows and e = 0 and 1 give denormals.
  static F16x scale(NoHead, const uint8_t* p, int) {
    const I16x e = i_load_u8(p), bias = i_set(-64);
    return f_mul(f_pow2(i_add(i_shr<1>(e), bias)), f_pow2(i_add(i_shr<1>(i_add(e, i_set(1))), bias)));
  }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 16, out);
    look_up(kFp4Table, out);
  }
};
struct PanelIQ4_XS {
  static constexpr int kSuper = 8, kHeadBytes = 32, kBlockBytes = 16 + 256, kGroups = 1, kOffset = 128, kMaxCode = 255;
  static constexpr bool kHasMin = false;
  static ScaleHead head(const uint8_t* p) { return {f_load_f16(p)}; }
  static F16x scale(ScaleHead h, const uint8_t* p, int) { return f_mul(h.d, f_load_i8(p)); }
  static void codes(ScaleHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 16, out);
    look_up(kIq4Table, out);
  }
};
struct PanelQ4_K {
  static constexpr int kSuper = 8, kHeadBytes = 64, kBlockBytes = 32 + 256, kGroups = 1, kOffset = 0, kMaxCode = 15;
  static constexpr bool kHasMin = true;
  static ScaleMinHead head(const uint8_t* p) { return {f_load_f16(p), f_load_f16(p + 32)}; }
  static F16x scale(ScaleMinHead h, const uint8_t* p, int) { return f_mul(h.d, f_load_u8(p)); }
  static F16x minimum(ScaleMinHead h, const uint8_t* p, int) {
    return f_sub(f_zero(), f_mul(h.dmin, f_load_u8(p + 16)));
  }
  static void codes(ScaleMinHead, const uint8_t* p, B64 out[8]) { unpack_nibbles(p + 32, out); }
};
struct PanelQ5_K {
  static constexpr int kSuper = 8, kHeadBytes = 64, kBlockBytes = 32 + 320, kGroups = 1, kOffset = 0, kMaxCode = 31;
  static constexpr bool kHasMin = true;
  static ScaleMinHead head(const uint8_t* p) { return {f_load_f16(p), f_load_f16(p + 32)}; }
  static F16x scale(ScaleMinHead h, const uint8_t* p, int) { return f_mul(h.d, f_load_u8(p)); }
  static F16x minimum(ScaleMinHead h, const uint8_t* p, int) {
    return f_sub(f_zero(), f_mul(h.dmin, f_load_u8(p + 16)));
  }
  static void codes(ScaleMinHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 32, out);
    or_bit_plane<4>(p + 288, out);
  }
};
struct PanelQ6_K {
  static constexpr int kSuper = 8, kHeadBytes = 32, kBlockBytes = 32 + 384, kGroups = 2, kOffset = 32, kMaxCode = 63;
  static constexpr bool kHasMin = false;
  static ScaleHead head(const uint8_t* p) { return {f_load_f16(p)}; }
  static F16x scale(ScaleHead h, const uint8_t* p, int group) { return f_mul(h.d, f_load_i8(p + 16 * group)); }
  static void codes(ScaleHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 32, out);
    or_two_high_bits(p + 288, out);
  }
};
struct PanelQ3_K {
  static constexpr int kSuper = 8, kHeadBytes = 32, kBlockBytes = 32 + 192, kGroups = 2, kOffset = 4, kMaxCode = 7;
  static constexpr bool kHasMin = false;
  static ScaleHead head(const uint8_t* p) { return {f_load_f16(p)}; }
  static F16x scale(ScaleHead h, const uint8_t* p, int group) { return f_mul(h.d, f_load_i8(p + 16 * group)); }
  static void codes(ScaleHead, const uint8_t* p, B64 out[8]) {
    unpack_two_bits(p + 32, out);
    or_bit_plane<2>(p + 160, out);
  }
};
struct PanelQ2_K {
  static constexpr int kSuper = 8, kHeadBytes = 64, kBlockBytes = 32 + 128, kGroups = 2, kOffset = 0, kMaxCode = 3;
  static constexpr bool kHasMin = true;
  static ScaleMinHead head(const uint8_t* p) { return {f_load_f16(p), f_load_f16(p + 32)}; }
  static I16x both(const uint8_t* p, int group) { return i_load_u8(p + 16 * group); }
  static F16x scale(ScaleMinHead h, const uint8_t* p, int group) {
    return f_mul(h.d, f_from(i_shr<28>(i_shl<28>(both(p, group)))));
  }
  static F16x minimum(ScaleMinHead h, const uint8_t* p, int group) {
    return f_sub(f_zero(), f_mul(h.dmin, f_from(i_shr<4>(both(p, group)))));
  }
  static void codes(ScaleMinHead, const uint8_t* p, B64 out[8]) { unpack_two_bits(p + 32, out); }
};
struct PanelNVFP4 {
  static constexpr int kSuper = 1, kHeadBytes = 0, kBlockBytes = 64 + 256, kGroups = 2, kOffset = 12, kMaxCode = 24;
  static constexpr bool kHasMin = false;
  static NoHead head(const uint8_t*) { return {}; }
  static F16x scale(NoHead, const uint8_t* p, int group) { return f_load_f16(p + 32 * group); }
  static void codes(NoHead, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 64, out);
    look_up(kFp4Table, out);
  }
};
// Codebook entries are magnitudes of few values: an index with a sign is three or four bits, and the head has its
// table.
template <int groups>
struct PanelTable3 {
  static constexpr int kSuper = 8, kHeadBytes = 48, kBlockBytes = 16 * groups + 192, kGroups = groups, kOffset = 43,
                       kMaxCode = 127;
  static constexpr bool kHasMin = false;
  static TableHead head(const uint8_t* p) { return {f_mul(f_load_f16(p), f_set(0.125f)), p + 32}; }
  static F16x scale(TableHead h, const uint8_t* p, int group) { return f_mul(h.d, f_load_u8(p + 16 * group)); }
  static void codes(TableHead h, const uint8_t* p, B64 out[8]) {
    unpack_two_bits(p + 16 * groups, out);
    or_bit_plane<2>(p + 16 * groups + 128, out);
    look_up(h.table, out);
  }
};
struct PanelTable4 {
  static constexpr int kSuper = 8, kHeadBytes = 48, kBlockBytes = 16 + 256, kGroups = 1, kOffset = 62, kMaxCode = 127;
  static constexpr bool kHasMin = false;
  static TableHead head(const uint8_t* p) { return {f_mul(f_load_f16(p), f_set(0.25f)), p + 32}; }
  static F16x scale(TableHead h, const uint8_t* p, int) { return f_mul(h.d, f_load_u8(p)); }
  static void codes(TableHead h, const uint8_t* p, B64 out[8]) {
    unpack_nibbles(p + 16, out);
    look_up(h.table, out);
  }
};
template <int super>
struct PanelTernary {
  static constexpr int kSuper = super, kHeadBytes = 32, kBlockBytes = 128, kGroups = 1, kOffset = 1, kMaxCode = 2;
  static constexpr bool kHasMin = false;
  static ScaleHead head(const uint8_t* p) { return {f_load_f16(p)}; }
  static F16x scale(ScaleHead h, const uint8_t*, int) { return h.d; }
  static void codes(ScaleHead, const uint8_t* p, B64 out[8]) { unpack_two_bits(p, out); }
};
// Bits count twice, so that the offset makes them -1 and 1.
struct PanelQ1_0 {
  static constexpr int kSuper = 4, kHeadBytes = 32, kBlockBytes = 64, kGroups = 1, kOffset = 1, kMaxCode = 2;
  static constexpr bool kHasMin = false;
  static ScaleHead head(const uint8_t* p) { return {f_load_f16(p)}; }
  static F16x scale(ScaleHead h, const uint8_t*, int) { return h.d; }
  static void codes(ScaleHead, const uint8_t* p, B64 out[8]) {
    for (int c = 0; c < 8; ++c) out[c] = b_set(0);
    or_bit_plane<1>(p, out);
  }
};

// Calls set.template operator()<Layout>(kind) for every layout above.
template <class Set>
void for_each_int_panel(Set set) {
  set.template operator()<PanelQ4_0>(PanelKind::q4_0);
  set.template operator()<PanelQ4_1>(PanelKind::q4_1);
  set.template operator()<PanelQ5_0>(PanelKind::q5_0);
  set.template operator()<PanelQ5_1>(PanelKind::q5_1);
  set.template operator()<PanelQ8_0>(PanelKind::q8_0);
  set.template operator()<PanelIQ4_NL>(PanelKind::iq4_nl);
  set.template operator()<PanelMXFP4>(PanelKind::mxfp4);
  set.template operator()<PanelIQ4_XS>(PanelKind::iq4_xs);
  set.template operator()<PanelQ4_K>(PanelKind::q4_k);
  set.template operator()<PanelQ5_K>(PanelKind::q5_k);
  set.template operator()<PanelQ6_K>(PanelKind::q6_k);
  set.template operator()<PanelQ3_K>(PanelKind::q3_k);
  set.template operator()<PanelQ2_K>(PanelKind::q2_k);
  set.template operator()<PanelNVFP4>(PanelKind::nvfp4);
  set.template operator()<PanelTable3<1>>(PanelKind::table3);
  set.template operator()<PanelTable3<2>>(PanelKind::table3_two_scales);
  set.template operator()<PanelTable4>(PanelKind::table4);
  set.template operator()<PanelTernary<8>>(PanelKind::ternary);
  set.template operator()<PanelTernary<2>>(PanelKind::q2_0);
  set.template operator()<PanelQ1_0>(PanelKind::q1_0);
}
