// Which instructions this process may use: CPUID, what the operating system saves (XCR0), and HALFBYTE_ISA.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfbyte {

// Ordered within a processor family: reference (plain C++, any machine) and then x86's or ARM's.
enum class CpuLevel { reference, avx2, avx_vnni, avx512, amx, neon, neon_dotprod };

// The enumerator's own name.
std::string_view cpu_level_name(CpuLevel level);

// The level in use: the best one supported, lowered by HALFBYTE_ISA or set_cpu_level_limit().
// Throws Error(invalid_argument) when HALFBYTE_ISA names no level or one that this machine lacks.
CpuLevel cpu_level();

// Every level this machine supports, lowest first.
std::vector<CpuLevel> supported_cpu_levels();

// Lowers the level for kernels chosen from now on (tests). Throws if the machine lacks it.
void set_cpu_level_limit(CpuLevel level);

// One sentence for `doctor`: why this level and no higher one.
std::string cpu_level_reason();

// The CPU's own name, as in CPUID leaf 0x80000002, or "unknown".
std::string cpu_name();

}  // namespace halfbyte
