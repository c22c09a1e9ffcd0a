// Matrix sizes.
#include "ops/matrix.h"

namespace halfbyte::ops {

int64_t Matrix::bytes() const {
  if (layout == Layout::raw) return format == nullptr ? 0 : n_rows * format->row_bytes(n_cols);
  if (layout == Layout::tiles) return static_cast<int64_t>(storage.size());
  return (n_rows + 15) / 16 * panel_bytes;
}

}  // namespace halfbyte::ops
