// Matrix products of the formats whose nibbles name values.
#include "cuda/matmul.cuh"

namespace halfbyte::cuda {

template void multiply<Kind::table>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::table_e8m0>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::table_half16>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::table_super>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::table_super16>(const Job&, int, bool, cudaStream_t);

}  // namespace halfbyte::cuda
