"""Reasoning that models write before they answer: how it is marked, and whether a prompt has opened it already."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, mapped
from halfbyte.grammar import Reasoning

# The first whose closing text a template names is the one; templates that name none are taken for <think>.
FORMATS = (
    Reasoning("<|channel|>analysis<|message|>", "<|end|>", "<|end|>"),  # gpt-oss
    Reasoning("[THINK]", "[/THINK]", "[/THINK]"),  # Magistral
    Reasoning("<seed:think>", "</seed:think>", "</seed:think>"),
    Reasoning("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|>"),  # Command
    Reasoning("<|channel>thought\n", "<channel|>", "\n<channel|>"),  # Gemma 4
    Reasoning("<think>", "</think>", "\n</think>\n\n"),
)


def reasoning_of(template: str, prompt: str = "") -> Reasoning:
    """How a model with this template marks reasoning. prompt: the rendered prompt that is to be answered."""
    named = (known for known in FORMATS if known.close in template and known.open.rstrip() in template)
    known = next(named, FORMATS[-1])
    return replace(known, is_open=prompt.rstrip().endswith(known.open.rstrip()))


def may_reason(template: str, prompt: str, reasoning: Reasoning) -> bool:
    """Whether reasoning may come: the template speaks of it, and the prompt has not closed it already."""
    return reasoning.close in template and not prompt.rstrip().endswith(reasoning.close)


def read_reasoning(source: Incoming, reasoning: Reasoning) -> Generator[Delta | None, None, bool]:
    """Reads the reasoning at the beginning of an answer, less the white space around it; True when there was some."""
    source.pin()
    if not reasoning.is_open:
        yield from source.skip_space()
        if not (yield from source.accept(reasoning.open)):
            spaces = source.since_pin()
            if spaces:
                yield Delta(content=spaces)
            return False
    source.unpin()
    yield from source.skip_space()
    yield from source.accept(reasoning.open)  # some models repeat what the prompt has opened
    yield from source.skip_space()
    yield from mapped(source.until((reasoning.close,), keep_space=False), lambda text: Delta(reasoning=text))
    yield from source.skip_space()
    return True
