// Reads mutated copies of a model file: mutate_files FILE COPIES. Every copy of a GGUF file must load and run or throw
// halfbyte::Error; of a safetensors file it must parse or throw.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "files/gguf_reader.h"

extern "C" int halfbyte_fuzz_gguf(const uint8_t* data, size_t size);
extern "C" int halfbyte_fuzz_safetensors(const uint8_t* data, size_t size);

namespace {

using namespace halfbyte;

// The bytes of a file that are most of its structure.
constexpr size_t kHead = 4000;

std::string mutated(std::string data, Rng& rng, int kind) {
  if (data.size() < 16) return data;
  const size_t head = std::min(kHead, data.size() - 8);
  const auto below = [&](size_t n) { return static_cast<size_t>(rng.next() % (n == 0 ? 1 : n)); };
  switch (kind % 6) {
    case 0:
      data.resize(below(data.size()));
      break;
    case 1:
      for (size_t i = 0; i <= below(8); ++i) data[below(data.size())] ^= static_cast<char>(1 << below(8));
      break;
    case 2: {
      const uint64_t huge[] = {UINT64_MAX, uint64_t{1} << 62, uint64_t{1} << 31, 0};
      data.replace(below(head), 8, reinterpret_cast<const char*>(&huge[below(4)]), 8);
      break;
    }
    case 3: {  // a piece of the head elsewhere in it
      const std::string piece = data.substr(below(head), 1 + below(64));
      data.insert(below(head), piece);
      break;
    }
    case 4:
      data.erase(below(head), 1 + below(64));
      break;
    default:
      data.insert(below(head), std::string(1 + below(9), static_cast<char>(rng.next())));
  }
  return data;
}

bool run(const std::string& path) {
  try {
    model::LoadOptions options;
    options.n_threads = 1;
    const std::shared_ptr<files::TensorSource> source = files::open_gguf(path);
    const auto weights = model::load_weights(source, cpu::cpu_ops(), options);
    engine::EngineOptions engine_options;
    engine_options.n_threads = 1;
    engine_options.n_ctx = 64;
    engine::Engine engine(weights, engine_options);
    engine.forward({1, 2, 3}, engine::ForwardOutput::logits);
    return true;
  } catch (const Error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string name = argv[1];
  const bool is_gguf = name.ends_with(".gguf");
  std::ifstream in(argv[1], std::ios::binary);
  const std::string original((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string path = name + ".mutant";
  if (is_gguf && !run(name)) return 3;  // the original itself must load
  Rng rng(1);
  int n_loaded = 0;
  for (int i = 0; i < std::atoi(argv[2]); ++i) {
    const std::string data = mutated(original, rng, i);
    const std::vector<uint8_t> bytes(data.begin(), data.end());  // a string's end is nobody's to guard
    (is_gguf ? halfbyte_fuzz_gguf : halfbyte_fuzz_safetensors)(bytes.data(), bytes.size());
    if (!is_gguf) continue;
    std::ofstream(path, std::ios::binary) << data;
    n_loaded += run(path) ? 1 : 0;
  }
  std::printf("%d copies loaded\n", n_loaded);
}
