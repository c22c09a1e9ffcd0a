// Every kernel of every CPU level of this machine against the reference, on small odd shapes. Prints one line per level
// with a hash of all its results: the same on every level and processor family, or the program fails where it differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_level.h"
#include "cpu/cpu.h"
#include "formats/registry.h"

using namespace halfbyte;

namespace {

uint64_t hash_of(uint64_t hash, const std::vector<float>& values) {
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    hash = (hash ^ bits) * 0x100000001b3ull;
  }
  return hash;
}

// A level's pool and scratch.
struct Run {
  const ops::Ops& ops;
  ThreadPool pool;
  ops::Context context;
  explicit Run(CpuLevel level) : ops(cpu::cpu_ops(level)), pool(2) {
    context.pool = &pool;
    context.scratch = ops.create_scratch(pool);
  }
  ~Run() { ops.destroy_scratch(context.scratch); }
};

std::vector<float> noise(size_t n, uint64_t seed) {
  std::vector<float> values(n);
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (float& value : values) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    value = static_cast<float>(static_cast<int32_t>(state >> 32)) / 2147483648.0f;
  }
  return values;
}

// Rows make an odd number of panels, the last one not full; columns an odd number of blocks where a format allows it,
// and more than a chunk of 512; tokens both full tiles and every kind of remainder.
constexpr int64_t kMatrixRows = 37;
constexpr int64_t kTokens[] = {1, 5, 7, 12, 13, 23, 45};

int64_t cols_of(const formats::Format& format) {
  return format.block_weights > 32 ? 768 : 608;
}

// Which bytes of a block of a format without an encoder here must be tamed for its scales to be small and finite:
// byte & keep | set. By default the upper byte of an f16, made 2^-7 to 2^-6 of either sign.
struct Scales {
  formats::TypeId id;
  int first, count = 1, step = 2, keep = 0x83, set = 0x20;
};
using enum formats::TypeId;
constexpr Scales kScales[] = {{q2_k, 81, 2},
                              {q3_k, 109},
                              {q4_k, 1, 2},
                              {q5_k, 1, 2},
                              {q6_k, 209},
                              {iq4_nl, 1},
                              {iq4_xs, 1},
                              {iq3_s, 1},
                              {iq3_xxs, 1},
                              {iq2_s, 1},
                              {iq2_xs, 1},
                              {iq2_xxs, 1},
                              {iq1_s, 1},
                              {tq1_0, 53},
                              {tq2_0, 65},
                              {q1_0, 1},
                              {q2_0, 1},
                              {iq1_m, 49, 4, 2, 15, 0x20},
                              {mxfp4, 0, 1, 1, 3, 120},
                              {nvfp4, 0, 4, 1, 0x3f, 0}};

// Encoded noise, or noise as codes. Empty: the format is no matrix's.
std::vector<std::byte> matrix_of(const formats::Format& format) {
  const int64_t n_weights = kMatrixRows * cols_of(format), n_blocks = n_weights / format.block_weights;
  std::vector<std::byte> blocks(static_cast<size_t>(kMatrixRows * format.row_bytes(cols_of(format))));
  if (format.encode != nullptr) {
    format.encode(noise(static_cast<size_t>(n_weights), 7).data(), blocks.data(), n_blocks);
    return blocks;
  }
  const auto* scales =
      std::find_if(std::begin(kScales), std::end(kScales), [&](const Scales& each) { return each.id == format.id; });
  if (scales == std::end(kScales)) return {};
  const std::vector<float> codes = noise(blocks.size(), 13);
  std::transform(codes.begin(), codes.end(), blocks.begin(),
                 [](float code) { return static_cast<std::byte>(static_cast<int>(128 * code) & 255); });
  for (int64_t i = 0; i < n_blocks * scales->count; ++i) {
    std::byte& byte = blocks[static_cast<size_t>(i / scales->count * format.block_bytes + scales->first +
                                                 i % scales->count * scales->step)];
    byte = (byte & static_cast<std::byte>(scales->keep)) | static_cast<std::byte>(scales->set);
  }
  return blocks;
}

std::vector<float> multiply(Run& run, const formats::Format& format, const std::vector<std::byte>& blocks,
                            int64_t n_tokens) {
  const int64_t n_cols = cols_of(format);
  const ops::Matrix matrix = run.ops.pack({&format, kMatrixRows, n_cols, blocks}, false, run.pool);
  std::vector<float> x = noise(static_cast<size_t>(n_tokens * n_cols), 11);
  // Outliers: none to three of a token, some of them in one column.
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t i = 0; i < t % 4; ++i) x[static_cast<size_t>(t * n_cols + 97 * (t / 4 + i) % n_cols)] = -20.0f;
  std::vector<float> out(static_cast<size_t>(n_tokens * kMatrixRows));
  const ops::Projection projection[] = {{.weight = &matrix, .out = out.data(), .out_stride = kMatrixRows}};
  const ops::RowRun rows[] = {{0, n_tokens, ops::Role::prefill}};
  run.ops.linear(run.context, x.data(), n_cols, std::span<const ops::RowRun>(rows),
                 std::span<const ops::Projection>(projection));
  return out;
}

std::vector<float> attend(Run& run, ops::KvType type) {
  constexpr int64_t kPositions = 83, kRows = 5;
  const ops::KvLayout layout = {type, type, 2, 64, 64};
  std::vector<std::byte> kv(static_cast<size_t>(6 * layout.block_bytes()));
  const std::vector<float> k = noise(kPositions * 128, 3), v = noise(kPositions * 128, 4), q = noise(kRows * 6 * 64, 5);
  const int32_t table[] = {4, 0, 5, 1, 3, 2};
  std::vector<int64_t> slots;
  for (int64_t p = 0; p < kPositions; ++p) slots.push_back(int64_t{table[p / 16]} * 16 + p % 16);
  run.ops.store_kv(run.context, layout, kv.data(), k.data(), 128, v.data(), 128, kPositions, slots.data());
  std::vector<float> out(kRows * 6 * 64);
  const ops::AttentionSpan span = {0, kRows, kPositions - kRows, ops::Role::prefill, table};
  run.ops.attention(run.context, {.query = q.data(),
                                  .query_stride = 384,
                                  .out = out.data(),
                                  .out_stride = 384,
                                  .kv = kv.data(),
                                  .layout = layout,
                                  .n_heads = 6,
                                  .scale = 0.125f,
                                  .spans = std::span(&span, 1)});
  return out;
}

std::vector<float> elementwise(Run& run) {
  std::vector<float> out, x = noise(3 * 75, 1), y = noise(3 * 75, 2), to(3 * 75);
  for (auto& value : x) value *= 4;
  for (const auto act : {ops::Activation::silu, ops::Activation::gelu_tanh, ops::Activation::gelu_quick}) {
    run.ops.glu(run.context, act, x.data(), 75, y.data(), 75, to.data(), 75, 3, 75);
    out.insert(out.end(), to.begin(), to.end());
  }
  run.ops.norm(run.context, ops::NormKind::layer, x.data(), 75, to.data(), 75, 3, 75, y.data(), nullptr, 1e-5f,
               nullptr);
  out.insert(out.end(), to.begin(), to.end());
  run.ops.softcap(run.context, x.data(), 3 * 75, 3.0f);
  out.insert(out.end(), x.begin(), x.end());
  return out;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

}  // namespace

int main() {
  int failures = 0;
  uint64_t first_hash = 0;
  std::string first_level;
  Run reference(CpuLevel::reference);
  std::vector<std::pair<const formats::Format*, std::vector<std::byte>>> matrices;
  for (const formats::Format& format : formats::all_formats()) {
    if (std::vector<std::byte> blocks = matrix_of(format); !blocks.empty())
      matrices.emplace_back(&format, std::move(blocks));
  }
  const auto check = [&](const std::string& what, const std::vector<float>& found, const std::vector<float>& expected,
                         double bound) {
    const double error = distance(found, expected);
    if (error <= bound) return;
    std::printf("%s: relative error %.3g, at most %.3g expected\n", what.c_str(), error, bound);
    ++failures;
  };
  for (const CpuLevel level : supported_cpu_levels()) {
    if (level == CpuLevel::reference) continue;
    const std::string name(cpu_level_name(level));
    Run run(level);
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const auto& [format, blocks] : matrices) {
      for (const int64_t n_tokens : kTokens) {
        const std::vector<float> found = multiply(run, *format, blocks, n_tokens);
        // Eight-bit activations: half a step of 1/127 of each block's largest.
        check(name + " " + std::string(format->name), found, multiply(reference, *format, blocks, n_tokens), 0.01);
        hash = hash_of(hash, found);
      }
    }
    for (const auto type :
         {ops::KvType::f16, ops::KvType::bf16, ops::KvType::f32, ops::KvType::q8_0, ops::KvType::q4_0}) {
      const std::vector<float> found = attend(run, type);
      check(name + " attention", found, attend(reference, type), 1e-5);
      hash = hash_of(hash, found);
    }
    const std::vector<float> found = elementwise(run);
    check(name + " elementwise", found, elementwise(reference), 1e-5);
    hash = hash_of(hash, found);
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(hash));
    if (first_level.empty()) first_level = name, first_hash = hash;
    if (hash != first_hash) std::printf("%s and %s differ in bits\n", name.c_str(), first_level.c_str()), ++failures;
  }
  return failures == 0 ? 0 : 1;
}
