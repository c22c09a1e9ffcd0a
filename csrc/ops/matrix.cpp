// Matrix sizes, and the form that every packing starts from.
#include "ops/matrix.h"

#include "base/error.h"

namespace halfbyte::ops {

int64_t Matrix::bytes() const {
  if (layout == Layout::raw) return format == nullptr ? 0 : n_rows * format->row_bytes(n_cols);
  if (layout == Layout::tiles) return static_cast<int64_t>(storage.size());
  return (n_rows + 15) / 16 * panel_bytes;
}

Matrix raw_matrix(const MatrixSource& source) {
  require(source.format != nullptr && source.n_cols % source.format->block_weights == 0 &&
              static_cast<int64_t>(source.bytes.size()) >= source.n_rows * source.format->row_bytes(source.n_cols),
          "A matrix of %lld x %lld does not fit its %zu bytes.", static_cast<long long>(source.n_rows),
          static_cast<long long>(source.n_cols), source.bytes.size());
  Matrix m;
  m.format = source.format;
  m.n_rows = source.n_rows;
  m.n_cols = source.n_cols;
  m.data = source.bytes.data();
  return m;
}

}  // namespace halfbyte::ops
