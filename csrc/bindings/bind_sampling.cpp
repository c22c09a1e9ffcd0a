// SamplingParams and the chain on numpy logits.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bind.h"
#include "sampling/chain.h"

namespace halfbyte::bindings {

namespace {

using sampling::Params;

// Every field once: constructor keywords, attributes, repr and equality are made from it.
template <class Visit>
void visit_fields(Visit&& visit) {
  visit("temperature", &Params::temperature);
  visit("dynatemp_range", &Params::dynatemp_range);
  visit("dynatemp_exponent", &Params::dynatemp_exponent);
  visit("top_k", &Params::top_k);
  visit("top_p", &Params::top_p);
  visit("min_p", &Params::min_p);
  visit("typical_p", &Params::typical_p);
  visit("top_n_sigma", &Params::top_n_sigma);
  visit("xtc_probability", &Params::xtc_probability);
  visit("xtc_threshold", &Params::xtc_threshold);
  visit("min_keep", &Params::min_keep);
  visit("repeat_penalty", &Params::repeat_penalty);
  visit("frequency_penalty", &Params::frequency_penalty);
  visit("presence_penalty", &Params::presence_penalty);
  visit("repeat_last_n", &Params::repeat_last_n);
  visit("dry_multiplier", &Params::dry_multiplier);
  visit("dry_base", &Params::dry_base);
  visit("dry_allowed_length", &Params::dry_allowed_length);
  visit("dry_penalty_last_n", &Params::dry_penalty_last_n);
  visit("dry_sequence_breakers", &Params::dry_sequence_breakers);
  visit("mirostat", &Params::mirostat);
  visit("mirostat_tau", &Params::mirostat_tau);
  visit("mirostat_eta", &Params::mirostat_eta);
  visit("logit_bias", &Params::logit_bias);
  visit("allowed_token_ids", &Params::allowed_token_ids);
  visit("bad_words", &Params::bad_words);
  visit("order", &Params::order);
  visit("seed", &Params::seed);
  visit("n_logprobs", &Params::n_logprobs);
}

Params from_keywords(const py::kwargs& keywords) {
  Params params;
  for (const auto& [key, value] : keywords) {
    const std::string name = key.cast<std::string>();
    bool found = false;
    visit_fields([&](const char* field, auto member) {
      if (name != field) return;
      found = true;
      using Value = std::decay_t<decltype(params.*member)>;
      try {
        params.*member = value.template cast<Value>();
      } catch (const py::cast_error&) {
        throw py::type_error(name + " cannot be " + py::repr(value).cast<std::string>());
      }
    });
    if (!found) throw py::type_error("SamplingParams has no field " + name);
  }
  return params;
}

}  // namespace

py::list tops_to_python(const std::vector<sampling::TokenLogprob>& tops) {
  py::list out;
  for (const sampling::TokenLogprob& t : tops) out.append(py::make_tuple(t.token, t.logprob));
  return out;
}

py::dict sample_to_python(const sampling::Sample& sample) {
  py::dict out;
  out["token"] = sample.token;
  out["logprob"] = sample.logprob;
  out["top_logprobs"] = tops_to_python(sample.top_logprobs);
  return out;
}

void register_sampling(py::module_& m) {
  py::class_<Params> params(m, "SamplingParams",
                            "What a request asks of the sampler chain; see halfbyte.SamplingParams for meanings.");
  params.def(py::init(&from_keywords));
  visit_fields([&](const char* name, auto member) { params.def_readwrite(name, member); });
  params.def("__repr__", [](const py::object& self) {
    std::string text = "SamplingParams(";
    visit_fields([&](const char* name, auto) {
      text +=
          (text.back() == '(' ? "" : ", ") + std::string(name) + "=" + py::repr(self.attr(name)).cast<std::string>();
    });
    return text + ")";
  });

  py::class_<sampling::Chain>(m, "Chain", "A sampler chain with its state (seeded generator, mirostat).")
      .def(py::init<const Params&, int32_t>(), py::arg("params"), py::arg("n_vocab"))
      .def(
          "sample",
          [](sampling::Chain& chain, const py::array_t<float, py::array::c_style>& logits,
             const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated,
             const std::optional<py::array_t<uint32_t, py::array::c_style>>& mask) {
            std::vector<float> copy(logits.data(), logits.data() + logits.size());
            require(!mask || mask->size() >= static_cast<py::ssize_t>((copy.size() + 31) / 32),
                    "The mask is too short for %zu logits.", copy.size());
            sampling::Sample sample;
            {
              const py::gil_scoped_release release;
              sample = chain.sample(copy, prompt, generated, mask ? mask->data() : nullptr);
            }
            return sample_to_python(sample);
          },
          py::arg("logits"), py::arg("prompt") = std::vector<int32_t>(), py::arg("generated") = std::vector<int32_t>(),
          py::arg("mask") = py::none(),
          "Draws a token from float32 logits (n_vocab); returns token, logprob, top_logprobs.")
      .def_property_readonly("n_deciding", &sampling::Chain::n_deciding,
                             "How many of the most likely tokens decide the draw; 0: only all logits do.")
      .def(
          "sample_among",
          [](sampling::Chain& chain, const std::vector<std::pair<int32_t, float>>& best,
             const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated) {
            std::vector<sampling::Candidate> candidates;
            for (const auto& [token, logit] : best) candidates.push_back({token, logit});
            return sample_to_python(chain.sample_among(candidates, prompt, generated));
          },
          py::arg("best"), py::arg("prompt") = std::vector<int32_t>(), py::arg("generated") = std::vector<int32_t>(),
          "sample() from the (token, logit) of at least n_deciding most likely tokens, best first.");
  py::list names;
  for (const std::string_view name : sampling::stage_names()) names.append(std::string(name));
  m.attr("SAMPLER_STAGES") = py::tuple(names);
}

}  // namespace halfbyte::bindings
