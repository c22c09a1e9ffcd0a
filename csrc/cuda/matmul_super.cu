// Matrix products of the formats in super-blocks of 256.
#include "cuda/matmul.cuh"

namespace halfbyte::cuda {

template void multiply<Kind::q2_k>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q3_k>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q4_k>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q5_k>(const Job&, int, bool, cudaStream_t);
template void multiply<Kind::q6_k>(const Job&, int, bool, cudaStream_t);

}  // namespace halfbyte::cuda
