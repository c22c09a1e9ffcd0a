// SentencePiece scores as BPE merges: found by splitting every piece everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace halfbyte::text {

// All pairs (left id, right id) of pieces whose concatenation is a piece that may be merged into, best score first,
// then by left and right id. A piece that occurs twice counts under its last id. pieces, scores and mergeable have one
// length. Splits fall between UTF-8 characters only.
std::vector<std::pair<int32_t, int32_t>> merges_by_score(std::span<const std::string> pieces,
                                                         std::span<const float> scores,
                                                         std::span<const uint8_t> mergeable);

}  // namespace halfbyte::text
