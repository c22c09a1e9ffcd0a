// Matrix sizes, and the form that every packing starts from.
#include "ops/matrix.h"

#include "base/error.h"

namespace halfbyte::ops {

int64_t Matrix::bytes() const {
  return layout == Layout::tiles ? static_cast<int64_t>(storage.size()) : n_matrices * matrix_bytes;
}

Matrix raw_matrix(const MatrixSource& source) {
  const bool is_whole = source.format != nullptr && source.n_cols % source.format->block_weights == 0;
  const int64_t matrix_bytes = is_whole ? source.n_rows * source.format->row_bytes(source.n_cols) : 0;
  require(is_whole && static_cast<int64_t>(source.bytes.size()) >= source.n_matrices * matrix_bytes,
          "%lld matrices of %lld x %lld do not fit their %zu bytes.", static_cast<long long>(source.n_matrices),
          static_cast<long long>(source.n_rows), static_cast<long long>(source.n_cols), source.bytes.size());
  Matrix m;
  m.format = source.format;
  m.n_rows = source.n_rows;
  m.n_cols = source.n_cols;
  m.n_matrices = source.n_matrices;
  m.matrix_bytes = matrix_bytes;
  m.data = source.bytes.data();
  return m;
}

}  // namespace halfbyte::ops
