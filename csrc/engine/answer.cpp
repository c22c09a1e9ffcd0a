// Processors, the minimum length, the chain, then the stops.
#include "engine/answer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace halfbyte::engine {

Answer::Answer(Request request, int32_t n_vocab, const std::vector<std::string>& token_bytes)
    : request_(std::move(request)),
      token_bytes_(token_bytes),
      chain_(request_.sampling, n_vocab),
      stop_(request_.stop_strings, request_.include_stop) {
  require(request_.stop_strings.empty() || !token_bytes.empty(),
          "Stop strings need the vocabulary's bytes (token_bytes).");
}

int64_t Answer::n_left() const {
  return request_.max_tokens < 0 ? INT64_MAX : request_.max_tokens - static_cast<int64_t>(generated_.size());
}

void Answer::prepare_masks(MaskWorker& worker, std::span<const int32_t> drafts) {
  if (!request_.mask || coming_masks_.valid() || !masks_.empty()) return;
  coming_masks_ = worker.prepare(request_.mask, generated_, {drafts.begin(), drafts.end()});
}

void Answer::drop_masks() {
  masks_.clear();
}

MaskWords Answer::next_mask() {
  if (coming_masks_.valid()) {
    for (MaskWords& mask : coming_masks_.get()) masks_.push_back(std::move(mask));
  }
  require(!masks_.empty(), "No mask was prepared for token %zu.", generated_.size());
  MaskWords mask = std::move(masks_.front());
  masks_.pop_front();
  return mask;
}

int32_t Answer::advance(std::span<float> logits, Event& event) {
  if (request_.processor) request_.processor->process(generated_, logits);
  MaskWords mask;
  if (request_.mask) mask = next_mask();
  check_mask(mask, logits.size());
  if (static_cast<int64_t>(generated_.size()) < request_.min_tokens) {
    for (const int32_t token : request_.stop_tokens) {
      if (token >= 0 && static_cast<size_t>(token) < logits.size()) logits[static_cast<size_t>(token)] = -INFINITY;
    }
  }
  return take(chain_.sample(logits, request_.prompt, generated_, mask.empty() ? nullptr : mask.data()), event);
}

int64_t Answer::n_deciding() const {
  const bool bans_stops =
      !request_.stop_tokens.empty() && static_cast<int64_t>(generated_.size()) < request_.min_tokens;
  return request_.processor || request_.mask || bans_stops ? 0 : chain_.n_deciding();
}

int32_t Answer::advance_among(std::span<const sampling::Candidate> best, Event& event) {
  return take(chain_.sample_among(best, request_.prompt, generated_), event);
}

int32_t Answer::take(sampling::Sample sample, Event& event) {
  const int32_t token = sample.token;
  generated_.push_back(token);
  event.samples.push_back(std::move(sample));
  if (std::find(request_.stop_tokens.begin(), request_.stop_tokens.end(), token) != request_.stop_tokens.end()) {
    event.stop_token = token;
    end(FinishReason::stop, event);
    return token;
  }
  if (static_cast<size_t>(token) < token_bytes_.size())
    event.bytes += stop_.feed(token_bytes_[static_cast<size_t>(token)]);
  if (stop_.has_matched()) {
    event.stop_string = stop_.match();
    event.finish = FinishReason::stop;
  } else if (n_left() <= 0) {
    end(FinishReason::length, event);
  }
  return token;
}

void Answer::end(FinishReason reason, Event& event) {
  event.finish = reason;
  event.bytes += stop_.flush();
}

}  // namespace halfbyte::engine
