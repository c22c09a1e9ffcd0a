// Matrix products of the formats in blocks of 32.
#include "cuda/matmul.cuh"

namespace halfbyte::cuda {

template void multiply<Kind::q4_0>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q4_1>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q5_0>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q5_1>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q8_0>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::ternary>(const Job&, int, bool, cudaStream_t);

}  // namespace halfbyte::cuda
