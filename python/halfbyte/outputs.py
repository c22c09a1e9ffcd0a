"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from halfbyte.params import SamplingParams


@dataclass
class Logprob:
    """Log probabilities at one token: its own, and of the most likely ones (best first)."""

    token: int
    logprob: float
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Usage:
    """Token counts. cached_tokens of the prompt were reused; dropped_tokens fell out of a sliding context."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    dropped_tokens: int = 0


@dataclass
class Timing:
    """Seconds: until the first token, and from the first to the last."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens a second, the first one (which prefill paid) not counted."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 and self.completion_tokens > 1 else 0.0


@dataclass
class Piece:
    """A piece of a stream: new text and its tokens, with their log probabilities when asked for. The last one has
    `finish_reason` and `output`."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    output: Output | None = None
    logprobs: list[Logprob] = field(default_factory=list)


@dataclass
class Output:
    """A finished answer.

    finish_reason: "stop" (the model ended, or a stop string came: see stop_reason), "length" (max_tokens or the
    context's end), "cancelled". seed repeats the answer. params are the parameters that were in force.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None
    seed: int
    usage: Usage
    timing: Timing
    params: SamplingParams
    logprobs: list[Logprob] | None = None
    prompt_logprobs: list[float] | None = None
    others: list[Output] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text

    def to_openai(self, model: str = "halfbyte") -> dict[str, Any]:
        """A dict in the shape of OpenAI's text completion."""
        answers = [self, *self.others]
        n_completion = sum(a.usage.completion_tokens for a in answers)
        return {
            "object": "text_completion",
            "model": model,
            "choices": [
                {"index": i, "text": a.text, "finish_reason": a.finish_reason, "logprobs": None}
                for i, a in enumerate(answers)
            ],
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": n_completion,
                "total_tokens": self.usage.prompt_tokens + n_completion,
                "prompt_tokens_details": {"cached_tokens": self.usage.cached_tokens},
            },
        }
