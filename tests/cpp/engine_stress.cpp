// Several threads use one engine: engine_stress FILE. Requests run, stop, are cancelled and pushed out, passes run
// beside them in pieces; the blocks must all come back.
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "files/tensor_source.h"

namespace {

using namespace halfbyte;

// Allows even tokens after odd ones, and odd ones after even.
class EveryOther : public engine::TokenMask {
 public:
  std::span<const uint32_t> allowed(std::span<const int32_t> generated) override {
    words_.assign(16, !generated.empty() && generated.back() % 2 == 0 ? 0xAAAAAAAAu : 0x55555555u);
    return words_;
  }
  size_t admits(std::span<const int32_t> generated, std::span<const int32_t> choices) override {
    words_.clear();  // a thread that reads a mask meanwhile would be found
    bool is_odd_next = !generated.empty() && generated.back() % 2 == 0;
    size_t n = 0;
    for (; n < choices.size() && (choices[n] % 2 != 0) == is_odd_next; ++n) is_odd_next = !is_odd_next;
    return n;
  }
  std::shared_ptr<void> attention() override { return nullptr; }

 private:
  std::vector<uint32_t> words_;
};

void client(engine::Engine& engine, int seed) {
  for (int i = 0; i < 12; ++i) {
    engine::Request request;
    for (int t = 0; t < 5 + (seed * 7 + i * 3) % 40; ++t) request.prompt.push_back((t * 5 + seed) % 250);
    request.sampling.seed = static_cast<uint64_t>(seed);
    request.max_tokens = 3 + i;
    request.client = std::to_string(seed % 2);
    if (i % 6 == 1) request.beam_width = 2;
    if (i % 6 == 2) request.mask = std::make_shared<EveryOther>();
    if (i % 4 == 2) request.sampling.temperature = 0.0f;
    const auto mailbox = std::make_shared<engine::Mailbox>();
    const uint64_t id = engine.submit(request, mailbox);
    bool ended = false, cancelled = false;
    while (!ended) {
      for (const engine::Event& event : mailbox->take(std::chrono::milliseconds(50)))
        ended = event.finish != engine::FinishReason::none;
      if (i % 4 == 3 && !ended && !cancelled) {
        engine.cancel(id);
        cancelled = true;
      }
    }
    if (i % 3 == 0) {
      const auto output = i % 2 == 0 ? engine::ForwardOutput::hidden : engine::ForwardOutput::next_logprobs;
      engine.forward(std::vector<int32_t>(static_cast<size_t>(3 + 20 * (i % 5)), 7), output);
    }
    (void)engine.stats();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::shared_ptr<files::TensorSource> source = files::open_gguf(argv[1]);
  model::LoadOptions options;
  options.n_threads = 2;
  const auto weights = model::load_weights(source, cpu::cpu_ops(), options);
  for (int round = 0; round < 3; ++round) {
    engine::EngineOptions engine_options;
    engine_options.n_threads = 2;
    engine_options.n_ctx = 128;
    engine_options.kv_tokens = 256;  // tight: preemption happens
    engine_options.n_batch = 32;
    engine::Engine engine(weights, engine_options, round == 1 ? weights : nullptr);
    std::vector<std::thread> clients;
    for (int c = 0; c < 4; ++c) clients.emplace_back([&engine, c] { client(engine, c); });
    for (std::thread& c : clients) c.join();
    engine.check_integrity();
  }
  std::printf("done\n");
}
