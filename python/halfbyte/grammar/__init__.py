"""Constraints on answers: grammars and JSON schemas, compiled by llguidance into masks over the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from halfbyte.errors import InvalidArgumentError
from halfbyte.params import LogitsProcessor
from halfbyte.tokenizer import Tokenizer

#: Made from a tokenizer, gives a processor for one request.
Constraint = Callable[[Tokenizer], LogitsProcessor]


def gbnf_constraint(grammar: str) -> Constraint:
    """Answers follow a GBNF grammar (llama.cpp's notation). Raises InvalidArgumentError when it does not parse."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark = gbnf_to_lark(grammar)
    except Exception as error:  # the converter raises plain exceptions
        raise InvalidArgumentError(f"The grammar does not parse: {error}") from error
    return lambda tokenizer: _Matcher(tokenizer, lark)


def json_schema_constraint(schema: str | dict[str, Any]) -> Constraint:
    """Answers are JSON of that schema. Raises InvalidArgumentError naming what is not supported."""
    from llguidance import LLMatcher

    try:
        document = json.loads(schema) if isinstance(schema, str) else schema
    except ValueError as error:
        raise InvalidArgumentError(f"The schema is no JSON: {error}") from error
    grammar = LLMatcher.grammar_from_json_schema(document)
    return lambda tokenizer: _Matcher(tokenizer, grammar)


def lark_constraint(grammar: str) -> Constraint:
    """Answers follow a grammar in llguidance's dialect of Lark."""
    return lambda tokenizer: _Matcher(tokenizer, grammar)


def regex_constraint(pattern: str) -> Constraint:
    """Answers match a regular expression."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_regex(pattern)
    return lambda tokenizer: _Matcher(tokenizer, grammar)


def choice_constraint(choices: Sequence[str]) -> Constraint:
    """Answers are one of the choices."""
    return regex_constraint("|".join(f"({_escaped(choice)})" for choice in choices))


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text)


@lru_cache(maxsize=4)
def vocabulary_of(tokenizer: Tokenizer) -> Any:
    """The tokenizer as llguidance knows it; made once."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Adapter:
        """What llguidance asks of a tokenizer."""

        eos_token_id = tokenizer.eos_id if tokenizer.eos_id is not None else (tokenizer.end_ids or [0])[0]
        bos_token_id = tokenizer.bos_id
        tokens: ClassVar[list[bytes]] = [
            b"\xff" + tokenizer.token_bytes(i) if tokenizer.is_control(i) else tokenizer.token_bytes(i)
            for i in range(tokenizer.n_vocab)
        ]
        special_token_ids: ClassVar[list[int]] = [i for i in range(tokenizer.n_vocab) if tokenizer.is_control(i)]

        def __call__(self, text: str | bytes) -> list[int]:
            return tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, add_bos=False)

    return LLTokenizer(TokenizerWrapper(Adapter()), eos_token=tokenizer.end_ids or None)


class _Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        from llguidance import LLMatcher

        vocabulary = vocabulary_of(tokenizer)
        problem = LLMatcher.validate_grammar(grammar, vocabulary)
        if problem:
            raise InvalidArgumentError(f"The constraint cannot be used: {str(problem)[:400]}")
        self._matcher = LLMatcher(vocabulary, grammar)
        self._mask = np.zeros((tokenizer.n_vocab + 31) // 32, dtype=np.int32)
        self._n_seen = 0
        self._ends = tokenizer.end_ids

    def __call__(self, generated: Any, logits: Any) -> None:
        for token in generated[self._n_seen :]:
            if not self._matcher.consume_token(int(token)):
                break
        self._n_seen = len(generated)
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: len(logits)].astype(bool)
        if self._matcher.is_accepting():
            allowed[self._ends] = True
        if not allowed.any():
            allowed[self._ends] = True
        logits[: len(allowed)][~allowed] = -np.inf
