// Checks the parameters, runs the stages in order, draws.
#include "sampling/chain.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/stage.h"

namespace halfbyte::sampling {

namespace {

// Default order.
const Stage* const kStages[] = {&penalties_stage, &dry_stage,   &top_n_sigma_stage, &top_k_stage,      &typical_stage,
                                &top_p_stage,     &min_p_stage, &xtc_stage,         &temperature_stage};

const Stage* find_stage(std::string_view name) {
  for (const Stage* stage : kStages) {
    if (stage->name == name) return stage;
  }
  return nullptr;
}

void check_token(int32_t token, int32_t n_vocab, const char* where) {
  require(token >= 0 && token < n_vocab, "%s names token id %d; the vocabulary has %d tokens.", where, token, n_vocab);
}

void check_sequences(const std::vector<std::vector<int32_t>>& sequences, int32_t n_vocab, const char* where) {
  for (const std::vector<int32_t>& sequence : sequences) {
    for (const int32_t token : sequence) check_token(token, n_vocab, where);
  }
}

void check(const Params& p, int32_t n_vocab) {
  const std::pair<const char*, float> reals[] = {{"temperature", p.temperature},
                                                 {"dynatemp_range", p.dynatemp_range},
                                                 {"dynatemp_exponent", p.dynatemp_exponent},
                                                 {"top_p", p.top_p},
                                                 {"min_p", p.min_p},
                                                 {"typical_p", p.typical_p},
                                                 {"top_n_sigma", p.top_n_sigma},
                                                 {"xtc_probability", p.xtc_probability},
                                                 {"xtc_threshold", p.xtc_threshold},
                                                 {"repeat_penalty", p.repeat_penalty},
                                                 {"frequency_penalty", p.frequency_penalty},
                                                 {"presence_penalty", p.presence_penalty},
                                                 {"dry_multiplier", p.dry_multiplier},
                                                 {"dry_base", p.dry_base},
                                                 {"mirostat_tau", p.mirostat_tau},
                                                 {"mirostat_eta", p.mirostat_eta}};
  for (const auto& [name, value] : reals) require(std::isfinite(value), "%s is not a finite number.", name);
  require(p.repeat_penalty > 0, "repeat_penalty is %g; a positive number was expected.", p.repeat_penalty);
  require(p.top_p > 0, "top_p is %g; a number above 0 was expected.", p.top_p);
  require(p.typical_p > 0, "typical_p is %g; a number above 0 was expected.", p.typical_p);
  require(p.min_p <= 1, "min_p is %g; at most 1 was expected.", p.min_p);
  require(p.min_keep >= 1, "min_keep is %d; at least 1 was expected.", p.min_keep);
  require(p.repeat_last_n >= -1, "repeat_last_n is %d; -1 (all), 0 (off) or a count was expected.", p.repeat_last_n);
  require(p.dry_penalty_last_n >= -1, "dry_penalty_last_n is %d; -1 (all), 0 (off) or a count was expected.",
          p.dry_penalty_last_n);
  require(p.dry_base >= 1 || p.dry_multiplier <= 0, "dry_base is %g; at least 1 was expected.", p.dry_base);
  require(p.dry_allowed_length >= 1 || p.dry_multiplier <= 0, "dry_allowed_length is %d; at least 1 was expected.",
          p.dry_allowed_length);
  require(p.mirostat >= 0 && p.mirostat <= 2, "mirostat is %d; 0 (off), 1 or 2 was expected.", p.mirostat);
  require(p.n_logprobs >= -1 && p.n_logprobs <= n_vocab, "logprobs is %d; at most the vocabulary's %d were expected.",
          p.n_logprobs, n_vocab);
  require(p.seed.has_value(), "A sampler chain needs a seed.");
  for (const auto& [token, bias] : p.logit_bias) {
    check_token(token, n_vocab, "logit_bias");
    require(!std::isnan(bias) && bias != INFINITY, "logit_bias of token %d is not a number that can be added.", token);
  }
  for (const int32_t token : p.allowed_token_ids) check_token(token, n_vocab, "allowed_token_ids");
  check_sequences(p.bad_words, n_vocab, "bad_words");
  check_sequences(p.dry_sequence_breakers, n_vocab, "dry_sequence_breakers");
}

}  // namespace

float log_sum_exp(std::span<const float> logits) {
  const float highest = highest_of(logits);
  return highest + static_cast<float>(std::log(mass_of(logits, highest)));
}

Candidate likeliest(std::span<const float> logits) {
  const float highest = highest_of(logits);
  if (highest == -INFINITY) return {.token = -1, .logit = highest};
  const auto place = std::find(logits.begin(), logits.end(), highest) - logits.begin();
  return {.token = static_cast<int32_t>(place), .logit = highest};
}

std::vector<TokenLogprob> most_likely(std::span<float> logits, size_t n) {
  std::vector<TokenLogprob> out;
  if (n == 0) return out;
  const float normalizer = log_sum_exp(logits);
  std::vector<Candidate> storage;
  Candidates candidates(logits, storage);
  candidates.select_top(n);
  for (const Candidate& c : candidates.list()) out.push_back({c.token, c.logit - normalizer});
  return out;
}

struct Chain::State {
  Params params;
  int32_t n_vocab;
  Rng rng;
  float mu;
  std::vector<const Stage*> stages;  // active ones, in order
  std::vector<Candidate> storage;

  State(const Params& p, int32_t vocab)
      : params(p), n_vocab(vocab), rng(p.seed.value_or(0)), mu(2.0f * p.mirostat_tau) {
    check(params, n_vocab);
    std::vector<const Stage*> order(std::begin(kStages), std::end(kStages));
    if (!params.order.empty()) {
      order.clear();
      for (const std::string& name : params.order) {
        const Stage* stage = find_stage(name);
        if (stage == nullptr) {
          std::string known;
          for (const Stage* each : kStages) known += (known.empty() ? "" : ", ") + std::string(each->name);
          throw Error(ErrorKind::invalid_argument, "There is no sampler named " + name + ".",
                      "Known are " + known + ".");
        }
        order.push_back(stage);
      }
    }
    const auto steers = [](const Stage* stage) {
      return stage == &penalties_stage || stage == &dry_stage || stage == &temperature_stage;
    };
    for (const Stage* stage : order) {
      const bool replaced = params.mirostat > 0 && !steers(stage);
      if (!replaced && stage->is_active(params)) stages.push_back(stage);
    }
  }

  bool is_greedy() const { return params.temperature <= 0 && params.mirostat == 0; }

  int64_t n_deciding() const {
    const bool only_bans =
        std::ranges::all_of(params.logit_bias, [](const auto& each) { return each.second == -INFINITY; });
    const bool changes_logits = !only_bans || !params.allowed_token_ids.empty() || !params.bad_words.empty();
    if (changes_logits || params.n_logprobs >= 0 || params.mirostat > 0) return 0;
    const auto is_active = [&](const Stage& stage) { return std::ranges::find(stages, &stage) != stages.end(); };
    auto first = stages.begin();
    auto n_lowered = static_cast<int64_t>(params.logit_bias.size());  // banned
    if (is_active(penalties_stage)) {
      // Tokens of the window are only lowered: no more than as many others can come up in their place.
      const bool only_lowers =
          params.repeat_penalty >= 1 && params.frequency_penalty >= 0 && params.presence_penalty >= 0;
      if (!only_lowers || params.repeat_last_n < 0) return 0;
      n_lowered += params.repeat_last_n;
      first += *first == &penalties_stage ? 1 : 0;
    }
    if (is_greedy()) return is_active(dry_stage) ? 0 : n_lowered + 1;
    const bool is_cut = first != stages.end() && *first == &top_k_stage;
    return is_cut ? n_lowered + std::max(params.top_k, params.min_keep) : 0;
  }

  int32_t choose(std::span<float> logits, const History& history) {
    if (is_greedy()) {
      Candidates view(logits, storage);
      for (const Stage* stage : stages) {
        if (stage == &penalties_stage || stage == &dry_stage) stage->apply(view, params, history, rng);
      }
      const int32_t token = likeliest(logits).token;
      require(token >= 0, "No token can be chosen: every logit is masked or not a number.");
      return token;
    }
    require(without_nan(logits) != -INFINITY, "No token can be chosen: every logit is masked or not a number.");
    Candidates candidates(logits, storage);
    return draw_from(candidates, history);
  }

  int32_t choose_among(std::span<const Candidate> best, const History& history) {
    storage.assign(best.begin(), best.end());
    for (const auto& ban : params.logit_bias)
      std::erase_if(storage, [&](const Candidate& c) { return c.token == ban.first; });
    Candidates candidates(storage);
    if (!is_greedy()) return draw_from(candidates, history);
    for (const Stage* stage : stages) {
      if (stage == &penalties_stage) stage->apply(candidates, params, history, rng);
    }
    candidates.sort_front(1);
    return candidates.list().front().token;
  }

  int32_t draw_from(Candidates& candidates, const History& history) {
    for (const Stage* stage : stages) stage->apply(candidates, params, history, rng);
    return params.mirostat > 0 ? draw_mirostat(candidates, params, rng, mu) : draw(candidates, rng);
  }
};

Chain::Chain(const Params& params, int32_t n_vocab) : state_(std::make_unique<State>(params, n_vocab)) {}
Chain::~Chain() = default;
Chain::Chain(Chain&&) noexcept = default;
Chain& Chain::operator=(Chain&&) noexcept = default;

Sample Chain::sample(std::span<float> logits, std::span<const int32_t> prompt, std::span<const int32_t> generated,
                     const uint32_t* mask) {
  State& s = *state_;
  require(static_cast<int64_t>(logits.size()) == s.n_vocab, "%zu logits for a vocabulary of %d.", logits.size(),
          s.n_vocab);
  Sample sample;
  float normalizer = 0.0f;
  std::vector<float> raw;
  if (s.params.n_logprobs >= 0) {
    normalizer = log_sum_exp(logits);
    sample.top_logprobs = most_likely(logits, static_cast<size_t>(s.params.n_logprobs));
    raw.assign(logits.begin(), logits.end());
  }
  const History history{prompt, generated};
  apply_bias_and_bans(logits, s.params, history, mask);
  sample.token = s.choose(logits, history);
  if (!raw.empty()) sample.logprob = raw[static_cast<size_t>(sample.token)] - normalizer;
  return sample;
}

int64_t Chain::n_deciding() const {
  return state_->n_deciding();
}

Sample Chain::sample_among(std::span<const Candidate> best, std::span<const int32_t> prompt,
                           std::span<const int32_t> generated) {
  const int64_t n = state_->n_deciding();
  require(n > 0 && static_cast<int64_t>(best.size()) >= n, "%zu candidates; this chain decides by %lld.", best.size(),
          static_cast<long long>(n));
  return {.token = state_->choose_among(best, {prompt, generated}), .logprob = 0.0f, .top_logprobs = {}};
}

std::span<const std::string_view> stage_names() {
  static const auto names = [] {
    std::array<std::string_view, std::size(kStages)> out;
    for (size_t i = 0; i < out.size(); ++i) out[i] = kStages[i]->name;
    return out;
  }();
  return names;
}

}  // namespace halfbyte::sampling
