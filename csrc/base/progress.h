// How long work (loading, packing, quantizing) reports how far it is.
#pragma once

#include <cstdint>
#include <functional>

namespace halfbyte {

// Called with bytes done and bytes in all, from the thread that called the long function, at most about 50 times a
// second. Return false to stop: the function then throws Error(cancelled) and leaves nothing behind.
using Progress = std::function<bool(int64_t done, int64_t total)>;

}  // namespace halfbyte
