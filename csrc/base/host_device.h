// Marks inline functions that the CUDA backend's kernels share with the host.
#pragma once

#if defined(__CUDACC__)
#define HALFBYTE_HOST_DEVICE __host__ __device__
#else
#define HALFBYTE_HOST_DEVICE
#endif
