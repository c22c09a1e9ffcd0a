// Loads mutated copies of a model file: mutate_gguf FILE COPIES. Every copy must load and run or throw halfbyte::Error.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "base/error.h"
#include "base/rng.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "files/gguf_reader.h"

extern "C" int halfbyte_fuzz_gguf(const uint8_t* data, size_t size);

namespace {

using namespace halfbyte;

std::string mutated(std::string data, Rng& rng, int kind) {
  const auto below = [&](size_t n) { return static_cast<size_t>(rng.next() % (n == 0 ? 1 : n)); };
  switch (kind % 4) {
    case 0:
      data.resize(below(data.size()));
      break;
    case 1:
      for (size_t i = 0; i <= below(8); ++i) data[below(data.size())] ^= static_cast<char>(1 << below(8));
      break;
    case 2: {
      const uint64_t huge[] = {UINT64_MAX, uint64_t{1} << 62, uint64_t{1} << 31, 0};
      data.replace(below(4000), 8, reinterpret_cast<const char*>(&huge[below(4)]), 8);
      break;
    }
    default:
      data.insert(below(4000), std::string(1 + below(9), static_cast<char>(rng.next())));
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
  std::ifstream in(argv[1], std::ios::binary);
  const std::string original((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string path = std::string(argv[1]) + ".mutant";
  if (!run(argv[1])) return 3;  // the original itself must load
  Rng rng(1);
  int n_loaded = 0;
  for (int i = 0; i < std::atoi(argv[2]); ++i) {
    const std::string data = mutated(original, rng, i);
    halfbyte_fuzz_gguf(reinterpret_cast<const uint8_t*>(data.data()), data.size());
    std::ofstream(path, std::ios::binary) << data;
    n_loaded += run(path) ? 1 : 0;
  }
  std::printf("%d copies loaded\n", n_loaded);
}
