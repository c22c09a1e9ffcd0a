// What callers give the engine and get back: requests in, events out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/masks.h"
#include "engine/options.h"
#include "model/adapter.h"
#include "sampling/chain.h"
#include "sampling/params.h"

namespace halfbyte::engine {

enum class FinishReason : uint8_t { none, stop, length, cancelled, error };

// What to do when prompt + answer reach the context's end. Never silent.
enum class Overflow : uint8_t {
  error,  // refuse a prompt that does not fit; end the answer with `length` at the context's end
  slide,  // keep the first n_keep tokens and the newest half of the rest, recompute, go on (event.dropped counts)
};

// Called in the engine thread before sampling (Python processors). Implementations may take the GIL.
class LogitsProcessor {
 public:
  virtual ~LogitsProcessor() = default;
  // May change logits (n_vocab). `generated` holds the tokens drawn so far.
  virtual void process(std::span<const int32_t> generated, std::span<float> logits) = 0;
};

struct Request {
  std::vector<int32_t> prompt;
  sampling::Params sampling;
  int64_t max_tokens = -1;                // -1: until stop or context end
  int64_t min_tokens = 0;                 // stop tokens are banned before that many
  std::vector<int32_t> stop_tokens;       // end-of-generation ids and the caller's own
  std::vector<std::string> stop_strings;  // bytes, matched over the detokenized answer
  bool include_stop = false;              // stop string stays in the text
  Overflow overflow = Overflow::error;
  int64_t n_keep = 0;
  int32_t priority = 0;          // higher first
  std::string client;            // requests of one client share its turn
  bool prompt_logprobs = false;  // log p of each prompt token after the first
  // Above 1: beam search. Takes no sampling parameters but n_logprobs, no processor, no sliding context.
  int64_t beam_width = 1;
  int64_t n_hypotheses = 1;     // of the beams' results that are reported
  double length_penalty = 1.0;  // hypotheses are compared by score / length^length_penalty
  bool early_stopping = false;  // ends when beam_width hypotheses have; else when no better one is in sight
  std::shared_ptr<LogitsProcessor> processor;
  std::shared_ptr<TokenMask> mask;
  std::shared_ptr<const model::AdapterSet> adapters;  // nullptr: the plain model
};

// A result of beam search.
struct Hypothesis {
  std::vector<sampling::Sample> samples;     // with their log probabilities; the stop token included
  std::string bytes;                         // less a stop token's and a stop string
  double score = 0;                          // sum of log probabilities / length^length_penalty
  FinishReason finish = FinishReason::none;  // stop | length
  std::string stop_string;                   // which one matched
  int32_t stop_token = -1;
};

// One step's news of a request.
struct Event {
  uint64_t request_id = 0;
  std::vector<sampling::Sample> samples;  // tokens that became final (held-back ones come when decided)
  std::string bytes;                      // their bytes, less a stop string; may end inside a UTF-8 character
  int64_t n_prompt_done = 0;              // prompt tokens read so far (progress)
  int64_t n_prompt_cached = 0;            // of them, reused from the prefix cache
  int64_t dropped = 0;                    // tokens dropped by Overflow::slide so far
  FinishReason finish = FinishReason::none;
  std::string stop_string;  // which one matched
  int32_t stop_token = -1;
  std::string error;                                             // message when finish == error
  int error_kind = 0;                                            // ErrorKind
  std::vector<float> prompt_logprobs;                            // with the last prompt token
  std::vector<std::vector<sampling::TokenLogprob>> prompt_tops;  // beside each, the n_logprobs most likely tokens
  std::vector<Hypothesis> hypotheses;                            // of beam search, with its last event; best first
};

// Throws invalid_argument | context_overflow.
void check_request(const Request& request, int64_t n_vocab, const EngineOptions& options);

// The same for tokens of Engine::forward().
void check_pass(const std::vector<int32_t>& tokens, int64_t n_vocab, const EngineOptions& options);

}  // namespace halfbyte::engine
