// File blocks to panels.
#pragma once

#include "cpu/kernels.h"
#include "ops/ops.h"

namespace halfbyte::cpu {

// The panel family of a format; false when the format has none (it then stays raw).
bool panel_kind(const formats::Format& format, PanelKind& kind);

// Bytes of one panel of 16 rows; n_cols must suit the format.
int64_t panel_bytes(PanelKind kind, int64_t n_cols);

// Packs on the pool's threads; see ops::Ops::pack.
ops::Matrix pack(const ops::MatrixSource& source, bool keep_raw, ThreadPool& pool);

}  // namespace halfbyte::cpu
