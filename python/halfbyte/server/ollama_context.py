"""Ollama's num_ctx and truncate: prompts that are too long lose what is oldest, where others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from halfbyte.llm import ChatPrompt
from halfbyte.params import SamplingParams
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAsk, chat_prompt
from halfbyte.server.models import LoadedModel

# Tokens from a prompt's beginning that stay when its middle is cut out, unless num_keep says otherwise.
_N_KEEP = 4


@dataclass(frozen=True)
class Window:
    """How many tokens prompt and answer may have together; is_whole: as many as the model's context."""

    n_tokens: int
    is_whole: bool
    truncates: bool

    @classmethod
    def of(cls, model: LoadedModel, options: Mapping[str, Any], truncate: bool | None) -> Window:
        """What checked options and the field truncate ask for. More than the model was loaded with is not to be had."""
        n_ctx, wanted = model.llm.n_ctx, options.get("num_ctx") or 0
        n_tokens = min(wanted, n_ctx) if wanted > 0 else n_ctx
        return cls(n_tokens, n_tokens == n_ctx, truncate is not False)

    def params(self, params: SamplingParams, n_prompt: int) -> SamplingParams:
        """Parameters whose answer ends where the window does."""
        if self.is_whole:
            return params
        n_left = max(0, self.n_tokens - n_prompt)
        return replace(params, max_tokens=n_left if params.max_tokens is None else min(params.max_tokens, n_left))

    def n_most(self, params: SamplingParams) -> int:
        """Tokens that a prompt is cut down to: an answer of a quarter of the window, or what is asked, has its place."""
        quarter = max(1, self.n_tokens // 4)
        return max(1, self.n_tokens - (quarter if params.max_tokens is None else min(params.max_tokens + 1, quarter)))

    def cut(self, ids: list[int], params: SamplingParams) -> list[int]:
        """A prompt without its middle, where it is too long."""
        if not self.truncates or len(ids) < self.n_tokens:
            return ids
        n_most = self.n_most(params)
        n_keep = min(params.n_keep or _N_KEEP, n_most // 2)
        return [*ids[:n_keep], *ids[len(ids) - (n_most - n_keep) :]]

    async def fitted(self, call: Call, model: LoadedModel, ask: ChatAsk) -> tuple[ChatAsk, ChatPrompt]:
        """A chat without its oldest turns, where it is too long: the system's messages and the last user's turn stay."""
        prompt = await chat_prompt(call, model, ask)
        if not self.truncates or len(prompt.ids) < self.n_tokens:
            return ask, prompt
        others = [message for message in ask.messages if message.get("role") == "system"]
        turns = [message for message in ask.messages if message.get("role") != "system"]
        # Templates want a user's turn first.
        places = [i for i, message in enumerate(turns) if i > 0 and message.get("role") == "user"]
        n_most = self.n_most(ask.params)
        first, last = 0, len(places) - 1
        while first <= last:
            middle = (first + last) // 2
            ask = replace(ask, messages=[*others, *turns[places[middle] :]])
            prompt = await chat_prompt(call, model, ask)
            if first == last:
                break
            first, last = (first, middle) if len(prompt.ids) <= n_most else (middle + 1, last)
        return ask, prompt
