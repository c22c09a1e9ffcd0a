"""What a request may ask for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

#: A logits processor: called with the token ids drawn so far (int32 array) and the logits (float32 array, writable).
LogitsProcessor = Callable[[Any, Any], None]

_ALIASES = {
    "repetition_penalty": "repeat_penalty",
    "typical": "typical_p",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "temp": "temperature",
    "mirostat_mode": "mirostat",
    "stop_strings": "stop",
}


_LARGE = 1 << 30
#: Least and greatest values, for SamplingParams, the command line and HTTP alike.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "dynatemp_range": (0, 100),
    "dynatemp_exponent": (0, 100),
    "top_k": (-1, _LARGE),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "typical_p": (1e-6, 1),
    "top_n_sigma": (-1, 1000),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "min_keep": (1, _LARGE),
    "repeat_penalty": (0.01, 100),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repeat_last_n": (-1, _LARGE),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 100),
    "dry_allowed_length": (0, _LARGE),
    "dry_penalty_last_n": (-1, _LARGE),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 1),
    "length_penalty": (-100, 100),
    "min_tokens": (0, _LARGE),
}


@dataclass(frozen=True)
class SamplingParams:
    """Sampling and stopping of one request. Neutral values switch a stage off.

    n answers come as one result and its `others`; best_of draws more and keeps the n of highest mean log probability.
    beam_width above 1 searches for the n answers of highest log probability / length ** length_penalty instead of
    drawing them, and stops when there are beam_width (early_stopping), or none can be better. It keeps to response_format
    and stop, and takes no other sampling parameters. Requests may say so as vLLM's do: use_beam_search with best_of beams
    (replace(), generate() and the server).

    temperature 0 is greedy. top_k <= 0, top_p 1, min_p 0, typical_p 1, top_n_sigma <= 0, xtc_probability 0,
    dry_multiplier 0, mirostat 0 are off; RANGES says what else is allowed. max_tokens None means until the model stops or the
    context is full. seed None draws one; the result reports it. logprobs n gives the n most likely tokens beside the
    chosen one's. overflow "slide" drops the oldest tokens (after the first n_keep) when the context is full; "error"
    ends the answer there. response_format is what the answer must look like (halfbyte.grammar.constraint_of says in
    which forms); reasoning_budget is the most tokens of reasoning in a chat's answer. lora names loaded adapters with
    their strengths ({"poet": 0.5}), or one of them; None is the model's default, {} the plain model.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_keep: int = 1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[str] = ()
    samplers: Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None

    n: int = 1
    best_of: int | None = None
    beam_width: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    prompt_logprobs: bool = False
    overflow: str = "error"
    n_keep: int = 0
    priority: int = 0
    logits_processors: Sequence[LogitsProcessor] = ()
    response_format: Any = None
    reasoning_budget: int | None = None
    lora: str | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or not least <= float(value) <= most:
                span = f"{least:g} or more" if most == _LARGE else f"{least:g} to {most:g}"
                raise InvalidArgumentError(f"{name} is {value!r}; {span} was expected.")
        if self.n < 1:
            raise InvalidArgumentError(f"n is {self.n}; at least 1 was expected.")
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidArgumentError(f"best_of is {self.best_of}; at least n, which is {self.n}, was expected.")
        if self.beam_width < 1 or (self.beam_width > 1 and self.n > self.beam_width):
            raise InvalidArgumentError(f"beam_width is {self.beam_width}; at least n, which is {self.n}, was expected.")
        if self.beam_width > 1 and self.best_of is not None:
            raise InvalidArgumentError("best_of draws answers, beam_width searches for them: choose one.")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise InvalidArgumentError(f"max_tokens is {self.max_tokens}; a count or None was expected.")
        if self.reasoning_budget is not None and self.reasoning_budget < 0:
            raise InvalidArgumentError(f"reasoning_budget is {self.reasoning_budget}; a count or None was expected.")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise InvalidArgumentError(f"seed is {self.seed}; 0 to 2**64 - 1, or None, was expected.")
        if self.overflow not in ("error", "slide"):
            raise InvalidArgumentError(f'overflow is "{self.overflow}"; "error" or "slide" was expected.')

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> SamplingParams:
        """What a model's makers recommend (generation_config.json); keys that mean nothing here are left out."""
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
        found = {}
        for key in names:
            least, most = RANGES[_ALIASES.get(key, key)]
            if isinstance(value := config.get(key), (int, float)) and least <= value <= most:
                found[key] = value
        if config.get("do_sample") is False:
            found["temperature"] = 0.0
        return cls(**resolve_names(found))

    @property
    def stop_list(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) and self.stop else [s for s in self.stop if s]

    @property
    def n_sequences(self) -> int:
        """How many answers are computed at once for one prompt."""
        return max(self.beam_width, self.best_of or self.n)

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some fields changed; unknown names are refused with a suggestion."""
        return replace(self, **resolve_names(changes))

    def to_core(self, encode: Callable[[str], list[int]]) -> _core.SamplingParams:
        """The core's parameters; `encode` turns the strings of bad_words and DRY breakers into ids."""
        words = [ids for word in self.bad_words for text in (word, " " + word) if (ids := encode(text))]
        breakers = (
            [ids for text in self.dry_sequence_breakers if (ids := encode(text))] if self.dry_multiplier > 0 else []
        )
        same_name = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name in _CORE_NAMES and f.name not in ("logit_bias", "bad_words", "dry_sequence_breakers")
        }
        return _core.SamplingParams(
            **same_name,
            logit_bias=[(int(token), float(bias)) for token, bias in self.logit_bias.items()],
            bad_words=words,
            dry_sequence_breakers=breakers,
            order=list(self.samplers),
            n_logprobs=-1 if self.logprobs is None else self.logprobs,
        )


_NAMES = [f.name for f in fields(SamplingParams)]
_CORE_NAMES = frozenset(name for name in dir(_core.SamplingParams) if not name.startswith("_"))


def resolve_names(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords under their own names (aliases of other engines accepted); unknown ones are refused."""
    out: dict[str, Any] = {}
    keywords = dict(keywords)
    if keywords.pop("use_beam_search", False):
        keywords["beam_width"] = keywords.pop("best_of", None) or keywords.get("n", 1)
        if keywords["beam_width"] == 1:
            keywords["temperature"] = 0.0  # a search with one beam takes the likeliest token
    for key, value in keywords.items():
        name = _ALIASES.get(key, key)
        if name not in _NAMES:
            close = difflib.get_close_matches(name, [*_NAMES, *_ALIASES], n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(_NAMES)}."
            raise InvalidArgumentError(f"SamplingParams has no field {key}.", hint=hint)
        if name == "max_tokens" and value is not None and value < 0:
            value = None
        if name == "seed" and value is not None and value < 0:
            value = None
        out[name] = value
    return out
