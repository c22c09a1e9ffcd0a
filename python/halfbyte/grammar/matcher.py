"""Follows an answer through a grammar of llguidance and says which tokens may come next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from halfbyte.errors import ConstraintError, InvalidArgumentError
from halfbyte.tokenizer import Tokenizer

#: One bit for each token of the vocabulary, lowest first; set where the token may come.
Mask = npt.NDArray[np.uint32]


@lru_cache(maxsize=1)
def limits() -> Any:
    """What a grammar may cost: other answers wait while a mask is computed, so a step has a quarter of the usual."""
    from llguidance import LLParserLimits

    return LLParserLimits(step_lexer_fuel=50_000)


@lru_cache(maxsize=8)
def vocabulary_of(tokenizer: Tokenizer) -> Any:
    """The tokenizer as llguidance knows it; made once."""
    from llguidance import LLTokenizer, TokenizerWrapper

    control = [i for i in range(tokenizer.n_vocab) if tokenizer.is_control(i)]

    class Adapter:
        """What llguidance asks of a tokenizer."""

        eos_token_id = tokenizer.eos_id if tokenizer.eos_id is not None else (tokenizer.end_ids or [0])[0]
        bos_token_id = tokenizer.bos_id
        special_token_ids = control

        def __init__(self) -> None:
            self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)]
            for i in control:
                self.tokens[i] = b"\xff" + self.tokens[i]

        def __call__(self, text: str | bytes) -> list[int]:
            return tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, add_bos=False)

    return LLTokenizer(TokenizerWrapper(Adapter()))


@lru_cache(maxsize=8)
def everything_but(tokenizer: Tokenizer, tokens: tuple[int, ...], n_logits: int) -> Mask:
    """A mask of the whole vocabulary without a few tokens."""
    bits = np.zeros(-(-n_logits // 32) * 32, dtype=np.uint8)
    bits[: tokenizer.n_vocab] = 1
    bits[list(tokens)] = 0
    return np.packbits(bits, bitorder="little").view(np.uint32)


def only(token: int, n_logits: int) -> Mask:
    """A mask of one token."""
    mask = np.zeros(-(-n_logits // 32), dtype=np.uint32)
    mask[token // 32] = 1 << token % 32
    return mask


class Matcher:
    """A place in a grammar. It may end where the grammar may, with any of the tokenizer's end tokens."""

    def __init__(self, matcher: Any, tokenizer: Tokenizer, n_logits: int) -> None:
        self._matcher, self._tokenizer, self._n_logits = matcher, tokenizer, n_logits
        self._mask = np.zeros(-(-n_logits // 32), dtype=np.uint32)
        self._address = self._mask.ctypes.data
        self._is_masked = False  # _mask is that of this place
        self._ends = tokenizer.end_ids
        self._n_after_end = 0  # end tokens, and what a caller draws after one
        self._n_bytes = (tokenizer.n_vocab + 31) // 32 * 4

    @classmethod
    def of(cls, tokenizer: Tokenizer, grammar: str, n_logits: int) -> Matcher:
        """At a grammar's beginning. Raises InvalidArgumentError when it does not compile for this vocabulary, or
        nothing satisfies it."""
        from llguidance import LLMatcher

        found = cls(LLMatcher(vocabulary_of(tokenizer), grammar, limits=limits()), tokenizer, n_logits)
        if found._matcher.is_error():
            raise InvalidArgumentError(f"The constraint cannot be used: {short(found._matcher.get_error())}")
        try:
            found.mask()
        except ConstraintError as error:
            raise InvalidArgumentError(error.message) from error
        return found

    def copy(self) -> Matcher:
        """Another one at the same place. What was computed there, which may have taken seconds, comes along."""
        copy = Matcher(self._matcher.deep_copy(), self._tokenizer, self._n_logits)
        copy._mask[:], copy._is_masked = self._mask, self._is_masked
        return copy

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Moves over tokens if all of them may come; stays and says False if not."""
        if self._matcher.validate_tokens(list(tokens)) < len(tokens):
            return False
        self._is_masked = False
        return bool(self._matcher.consume_tokens(list(tokens)))

    def consume(self, token: int) -> None:
        """Moves over a token that was drawn; past the end, any."""
        self._is_masked = False
        if self._n_after_end or token in self._ends or self._matcher.is_stopped():
            self._n_after_end += 1
        else:
            self._matcher.consume_token(token)

    def take_admitted(self, tokens: Sequence[int]) -> int:
        """Moves over tokens as long as they may come, and says over how many: not over ends, nor where a mask would name
        the one token that the grammar forces."""
        for n, token in enumerate(tokens):
            if (
                self._n_after_end
                or token in self._ends
                or self._matcher.compute_ff_bytes()
                or not self._matcher.try_consume_tokens([token])
            ):
                return n
            self._is_masked = False
        return len(tokens)

    def rollback(self, n: int) -> bool:
        """Takes the last n tokens back; False where that cannot be."""
        self._is_masked = False
        n_after_end = min(n, self._n_after_end)
        self._n_after_end -= n_after_end
        return n == n_after_end or bool(self._matcher.rollback(n - n_after_end))

    def mask(self) -> Mask:
        """What may come next; valid until the next call. Raises ConstraintError when nothing may: the answer must not pass
        for one that satisfies the grammar."""
        if self._is_masked:
            return self._mask
        self._mask[:] = 0
        if not self._n_after_end and not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(self._address, self._n_bytes)
        if self._matcher.is_error():
            raise ConstraintError(f"No answer satisfies the constraint: {short(self._matcher.get_error())}")
        if self._matcher.is_accepting() or not self._mask.any():
            for token in self._ends:
                self._mask[token // 32] |= np.uint32(1 << token % 32)
        self._is_masked = True
        return self._mask


def short(message: object) -> str:
    """llguidance's message without the state and the vocabulary it may list, on one line."""
    return " ".join(str(message).split("<state>")[0].split())[:300]
