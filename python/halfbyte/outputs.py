"""What a request gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from halfbyte.errors import FormatError
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
class ToolCall:
    """A call that a model asked for. arguments: JSON text as the model wrote it (cut short if the answer was)."""

    id: str
    name: str
    arguments: str = ""

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments, ready for a function. Raises ValueError when the text is no JSON object."""
        found = json.loads(self.arguments or "{}")
        if not isinstance(found, dict):
            raise ValueError(f"The arguments of {self.name} are no object: {self.arguments[:80]}")
        return found


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the call number `index`: its id and name come with the first piece, the arguments' JSON in fragments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments_fragment: str = ""


@dataclass
class Piece:
    """A piece of a stream: new text and its tokens, with their log probabilities when asked for. The last one has
    `finish_reason` and `output`. In a chat, text is content alone; reasoning and tool calls come apart from it."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    output: Output | None = None
    logprobs: list[Logprob] = field(default_factory=list)
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)


@dataclass
class Output:
    """A finished answer.

    finish_reason: "stop" (the model ended, or a stop string came: see stop_reason), "tool_calls" (it ended with calls),
    "length" (max_tokens or the context's end), "cancelled". seed repeats the answer. params are the parameters that
    were in force. In a chat, text is content alone; reasoning and tool calls come apart from it.
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
    prompt_top_logprobs: list[list[tuple[int, float]]] | None = None
    others: list[Output] = field(default_factory=list)
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    parse: Callable[[str], Any] | None = field(default=None, repr=False)
    #: What best_of (mean log probability) and beam search (log probability / length ** length_penalty) chose it by.
    score: float | None = None

    @property
    def parsed(self) -> Any:
        """The text as a value of params.response_format; None without one, or when tools are called instead.

        Raises FormatError when the answer was cut short; what the format's own checks raise passes through.
        """
        if self.parse is None or self.tool_calls:
            return None
        if self.finish_reason != "stop":
            raise FormatError(
                f"The answer is incomplete ({self.finish_reason}): it cannot be read as {self.params.response_format!r}.",
                hint="Give it more max_tokens.",
            )
        return self.parse(self.text)

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def chosen(answers: list[Output]) -> list[Output]:
        """Of all that was computed for one prompt what its parameters ask for; best first where there was a choice."""
        params = answers[0].params
        if params.best_of is not None:
            answers = sorted(answers, key=lambda answer: answer.score or 0.0, reverse=True)[: params.n]
        return [each for answer in answers for each in (answer, *answer.others)]

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
