// Detects the CPU level. Compiled without instruction-set flags: it must run on every machine.
#include "base/cpu_level.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace halfbyte {

namespace {

constexpr std::array<std::string_view, 7> kNames = {"reference", "avx2", "avx_vnni",    "avx512",
                                                    "amx",       "neon", "neon_dotprod"};

struct Detection {
  std::vector<CpuLevel> supported = {CpuLevel::reference};
  std::string reason;  // why nothing above the last supported level
  std::string name = "unknown";
};

#if defined(__x86_64__)

struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Leaf r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

bool bit(uint32_t word, int index) {
  return (word >> index & 1) != 0;
}

// Which register states the operating system saves on a task switch.
uint64_t enabled_states() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

#if defined(HALFBYTE_EMULATE_AMX)

std::string no_amx(const Leaf&, bool) {
  return "";
}

#else

// Linux hands out AMX tile state on request only (arch_prctl ARCH_REQ_XCOMP_PERM, feature 18), to a whole process.
// Returns why not; empty: granted.
std::string refused_tile_permission() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? "" : std::strerror(errno);
#else
  return "halfbyte knows how to ask Linux only";
#endif
}

// Why the level amx cannot be used; empty: it can.
std::string no_amx(const Leaf& seven, bool saves_tiles) {
  if (!(bit(seven.edx, 24) && bit(seven.edx, 25))) return "The CPU has no AMX (tile, int8).";
  if (!saves_tiles) return "The CPU has AMX, but the operating system does not save its tiles.";
  const std::string refused = refused_tile_permission();
  return refused.empty() ? "" : "The CPU has AMX, but the operating system refuses its tiles: " + refused + ".";
}

#endif

std::string brand() {
  if (cpuid(0x80000000u).eax < 0x80000004u) return "unknown";
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Leaf leaf = cpuid(0x80000002u + i);
    const uint32_t words[4] = {leaf.eax, leaf.ebx, leaf.ecx, leaf.edx};
    std::memcpy(text + 16 * i, words, sizeof words);
  }
  std::string name = text;
  while (!name.empty() && name.back() == ' ') name.pop_back();
  name.erase(0, name.find_first_not_of(' '));
  return name;
}

Detection detect() {
  Detection found;
  found.name = brand();
  const Leaf one = cpuid(1), seven = cpuid(7), seven1 = cpuid(7, 1);
  const bool saves_states = bit(one.ecx, 27);  // OSXSAVE
  const uint64_t states = saves_states ? enabled_states() : 0;
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6, tiles = (states & 0x60000) == 0x60000;

  if (!(bit(seven.ebx, 5) && bit(one.ecx, 12) && bit(one.ecx, 29))) {
    found.reason = "The CPU lacks AVX2, FMA or F16C.";
    return found;
  }
  if (!ymm) {
    found.reason = "The CPU has AVX2, but the operating system does not save its registers.";
    return found;
  }
  found.supported.push_back(CpuLevel::avx2);
  if (bit(seven1.eax, 4)) found.supported.push_back(CpuLevel::avx_vnni);

  const bool avx512 = bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31);
  if (!avx512 || !bit(seven.ecx, 11)) {
    found.reason = avx512 ? "The CPU has AVX-512, but not VNNI." : "The CPU has no AVX-512 F, BW, DQ and VL.";
    return found;
  }
  if (!zmm) {
    found.reason = "The CPU has AVX-512, but the operating system does not save its registers.";
    return found;
  }
  found.supported.push_back(CpuLevel::avx512);

  found.reason = no_amx(seven, tiles);
  if (found.reason.empty()) {
    found.supported.push_back(CpuLevel::amx);
    found.reason = "The CPU has every level that halfbyte knows.";
  }
  return found;
}

#elif defined(__aarch64__)

bool has_dot_product() {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProduct) != 0;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#else
  return false;
#endif
}

Detection detect() {
  Detection found;
  found.name = "64-bit ARM";
  found.supported.push_back(CpuLevel::neon);
  if (has_dot_product()) {
    found.supported.push_back(CpuLevel::neon_dotprod);
    found.reason = "The CPU has every level that halfbyte knows for ARM.";
  } else {
    found.reason = "The CPU has no dot product instructions.";
  }
  return found;
}

#else

Detection detect() {
  Detection found;
  found.reason = "There are no kernels for this processor family yet.";
  return found;
}

#endif

const Detection& detection() {
  static const Detection found = detect();
  return found;
}

bool is_supported(CpuLevel level) {
  for (const CpuLevel each : detection().supported) {
    if (each == level) return true;
  }
  return false;
}

std::string supported_names() {
  std::string text;
  for (const CpuLevel level : detection().supported) {
    if (!text.empty()) text += ", ";
    text += cpu_level_name(level);
  }
  return text;
}

CpuLevel level_from_environment() {
  const char* wanted = std::getenv("HALFBYTE_ISA");
  if (wanted == nullptr || *wanted == '\0') return detection().supported.back();
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] != wanted) continue;
    if (is_supported(static_cast<CpuLevel>(i))) return static_cast<CpuLevel>(i);
    throw Error(ErrorKind::invalid_argument, format_string("HALFBYTE_ISA=%s: this machine does not have it.", wanted),
                "Levels it has: " + supported_names() + ".");
  }
  throw Error(ErrorKind::invalid_argument, format_string("HALFBYTE_ISA=%s names no CPU level.", wanted),
              "Levels this machine has: " + supported_names() + ".");
}

std::atomic<int> level_limit{-1};  // set_cpu_level_limit; -1: none

}  // namespace

std::string_view cpu_level_name(CpuLevel level) {
  return kNames[static_cast<size_t>(level)];
}

CpuLevel cpu_level() {
  const int limit = level_limit.load();
  return limit >= 0 ? static_cast<CpuLevel>(limit) : level_from_environment();
}

std::vector<CpuLevel> supported_cpu_levels() {
  return detection().supported;
}

void set_cpu_level_limit(CpuLevel level) {
  require(is_supported(level), "This machine does not have the CPU level %s; it has: %s.",
          std::string(cpu_level_name(level)).c_str(), supported_names().c_str());
  level_limit.store(static_cast<int>(level));
}

std::string cpu_level_reason() {
  const CpuLevel level = cpu_level();
  if (level != detection().supported.back()) {
    return "Lowered from " + std::string(cpu_level_name(detection().supported.back())) + " by request.";
  }
  return detection().reason;
}

std::string cpu_name() {
  return detection().name;
}

}  // namespace halfbyte
