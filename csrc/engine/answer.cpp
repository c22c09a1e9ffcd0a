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

bool Answer::is_checked() const {
  return request_.mask && !request_.processor && !bans_stops() && chain_.n_deciding() == 1;
}

void Answer::check_choices(MaskWorker& worker, std::span<const sampling::Candidate> choices,
                           std::span<const int32_t> drafts) {
  if (coming_masks_.valid() || !masks_.empty()) return;
  choices_.assign(choices.begin(), choices.end());
  std::vector<int32_t> tokens;
  for (const sampling::Candidate& choice : choices) tokens.push_back(choice.token);
  size_t n_admitted = 0;
  try {
    if (!tokens.empty()) n_admitted = MaskWorker::admits(*request_.mask, generated_, tokens);
  } catch (...) {
    std::promise<std::vector<MaskWords>> failed;  // who wants the masks hears of it
    failed.set_exception(std::current_exception());
    coming_masks_ = failed.get_future();
    return;
  }
  masks_.resize(n_admitted);
  if (n_admitted > 0 && n_admitted == tokens.size()) return;
  tokens.resize(n_admitted);
  tokens.insert(tokens.begin(), generated_.begin(), generated_.end());
  const std::span<const int32_t> others = drafts.subspan(n_admitted);
  coming_masks_ = worker.prepare(request_.mask, std::move(tokens), {others.begin(), others.end()});
}

void Answer::drop_masks() {
  masks_.clear();
  choices_.clear();
}

void Answer::collect_masks() {
  if (!coming_masks_.valid()) return;
  for (MaskWords& mask : coming_masks_.get()) masks_.push_back(std::move(mask));
}

MaskWords Answer::next_mask() {
  collect_masks();
  require(!masks_.empty(), "No mask was prepared for token %zu.", generated_.size());
  MaskWords mask = std::move(masks_.front());
  masks_.pop_front();
  if (!choices_.empty()) choices_.pop_front();
  return mask;
}

bool Answer::advance_as_checked(Event& event, int32_t& token) {
  collect_masks();
  if (choices_.empty() || masks_.empty() || !masks_.front().empty()) return false;
  const sampling::Candidate choice = choices_.front();
  next_mask();
  token = advance_among({&choice, 1}, event);
  return true;
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
  return request_.processor || bans_stops() || (request_.mask && !is_checked()) ? 0 : chain_.n_deciding();
}

// Whether tokens that would end the answer may not come yet.
bool Answer::bans_stops() const {
  return !request_.stop_tokens.empty() && static_cast<int64_t>(generated_.size()) < request_.min_tokens;
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
