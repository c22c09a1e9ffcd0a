// Measures how fast this machine reads memory: the bound of decoding.
#pragma once

namespace halfbyte {

// Bytes a second that n_threads together read sequentially, the best of five passes over 256 MiB.
double memory_bandwidth(int n_threads);

}  // namespace halfbyte
