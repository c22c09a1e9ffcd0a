"""Holds one answer to its form while it is generated: reasoning first, then a grammar, at once or from a trigger on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from halfbyte.grammar.matcher import Mask, Matcher, everything_but, only, vocabulary_of
from halfbyte.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reasoning:
    """The texts around reasoning. is_open: the prompt ends inside it, so the answer begins with reasoning.

    closing is what force-closes it when a budget is used up: the closing text as models write it, with line breaks.
    """

    open: str
    close: str
    closing: str
    is_open: bool = False


@dataclass(frozen=True)
class Rules:
    """What an answer is held to.

    grammar: llguidance's, of all that follows the reasoning; None for free text. triggers: the grammar begins with the
    first of these in free text (first_triggers: only where the text begins with it); without any it begins at once.
    reasoning: how the model marks it, None where it has none. budget: most tokens of reasoning, None for any number.
    """

    grammar: str | None = None
    triggers: tuple[str, ...] = ()
    first_triggers: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    budget: int | None = None

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked for."""
        return self.grammar is None and (self.reasoning is None or self.budget is None)

    @property
    def is_held_at_once(self) -> bool:
        """Whether the grammar covers all that follows the reasoning."""
        return self.grammar is not None and not self.triggers and not self.first_triggers


class _Stage(Enum):
    OPENING = "reasoning may begin"
    REASONING = "inside reasoning"
    FREE = "free text, in which a trigger may come"
    HELD = "inside the grammar"


class Plan:
    """Rules made ready for a vocabulary, once for any number of answers.

    n_logits: length of the model's output, of which the vocabulary may be the first part. Raises InvalidArgumentError
    when the grammar does not fit the vocabulary, or nothing satisfies it.
    """

    def __init__(self, rules: Rules, tokenizer: Tokenizer, n_logits: int) -> None:
        self.rules, self.tokenizer, self.n_logits = rules, tokenizer, n_logits
        self.matcher = self.matcher_after_reasoning = None
        self.open_id: int | None = None
        self.closing: list[int] = []
        if rules.grammar is not None:
            self.matcher = Matcher.of(tokenizer, rules.grammar, n_logits)
        if rules.reasoning is not None:
            opening = tokenizer.encode(rules.reasoning.open, add_bos=False, parse_special=True)
            self.open_id = opening[0] if len(opening) == 1 else None
            self.closing = tokenizer.encode(rules.reasoning.closing, add_bos=False, parse_special=True)
            if rules.grammar is not None and rules.is_held_at_once:
                self.matcher_after_reasoning = Matcher.of(tokenizer, after_space(rules.grammar), n_logits)

    def begin(self) -> Guide:
        """A guide for one more answer."""
        return Guide(self)


class Guide:
    """One answer's way through its rules. Call it with the tokens drawn so far: it gives the mask of what may follow."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._rules, self._tokenizer = plan, plan.rules, plan.tokenizer
        self._restart()

    def __call__(self, generated: Any) -> Mask | None:
        """The mask of the next token after `generated` (int32); None where any may come."""
        self.follow(generated)
        return self._mask()

    def admits(self, choices: list[int]) -> int:
        """How many of `choices` may come one after another at this place, and moves past them; not all that may where
        only masks can tell."""
        matcher = self._matcher
        if self._stage is not _Stage.HELD or self._forced or matcher is None:
            return 0
        n_admitted = matcher.take_admitted(choices)
        self._n_matched += n_admitted
        self._seen += choices[:n_admitted]
        return n_admitted

    def follow(self, generated: Any) -> None:
        """Moves to the place after `generated` (int32)."""
        tokens = generated.tolist()
        n_known = len(self._seen)
        if tokens[:n_known] != self._seen:
            n_known = next((i for i, (a, b) in enumerate(zip(tokens, self._seen, strict=False)) if a != b), len(tokens))
            n_known = min(n_known, len(tokens), len(self._seen))
            self._rewind(n_known)
        for token in tokens[n_known:]:
            self._take(token)

    # Where the answer is ------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        rules = self._rules
        self._seen: list[int] = []
        self._matcher: Matcher | None = None
        self._n_matched = 0  # tokens that the matcher took one by one, and can take back
        self._n_reasoning = 0
        self._forced: list[int] = []
        self._text = b""  # of this stage
        self._tokens: list[tuple[int, int]] = []  # (place in the text, token) of this stage
        self._stage = _Stage.FREE
        if rules.reasoning is not None:
            self._stage = _Stage.REASONING if rules.reasoning.is_open else _Stage.OPENING
            self._spend(0)
        if rules.is_held_at_once and self._stage is not _Stage.REASONING:
            self._matcher = _copy(self._plan.matcher)
            self._stage = self._stage if self._stage is _Stage.OPENING else _Stage.HELD

    def _rewind(self, n_keep: int) -> None:
        n_back = len(self._seen) - n_keep
        # At the very beginning reasoning may still come: that is no place of the matcher.
        can_roll = self._matcher is not None and n_keep > 0 and n_back <= self._n_matched
        if can_roll and self._matcher is not None and self._matcher.rollback(n_back):
            self._n_matched -= n_back
            del self._seen[n_keep:]
            return
        kept = self._seen[:n_keep]
        self._restart()
        for token in kept:
            self._take(token)

    def _take(self, token: int) -> None:
        self._seen.append(token)
        if self._forced:
            self._forced = self._forced[1:] if self._forced[0] == token else []
        if self._stage is _Stage.OPENING and self._matcher is not None and token != self._plan.open_id:
            self._stage = _Stage.HELD
        if self._stage is _Stage.HELD:
            assert self._matcher is not None
            self._matcher.consume(token)
            self._n_matched += 1
            return
        self._tokens.append((len(self._text), token))
        self._text += self._tokenizer.token_bytes(token)
        if self._stage is _Stage.OPENING:
            self._look_for_opening()
        elif self._stage is _Stage.REASONING:
            self._look_for_close()
            self._spend(1)
        if self._stage is _Stage.FREE and self._rules.grammar is not None and self._tokens:
            self._look_for_trigger()

    def _look_for_opening(self) -> None:
        assert self._rules.reasoning is not None
        opening, begun = self._rules.reasoning.open.encode(), self._text.lstrip()
        if begun.startswith(opening):
            self._stage, self._matcher = _Stage.REASONING, None
            self._go_to(len(self._text) - len(begun) + len(opening))
            self._spend(0)
        elif not opening.startswith(begun):
            self._stage = _Stage.FREE

    def _spend(self, n_tokens: int) -> None:
        """Counts reasoning, and closes it when the budget is used up and no character is cut."""
        self._n_reasoning += n_tokens
        budget = self._rules.budget
        if self._stage is not _Stage.REASONING or budget is None or self._forced or self._n_reasoning < budget:
            return
        try:
            self._text.decode()
        except UnicodeDecodeError as error:
            if error.end == len(self._text) and len(self._text) - error.start < 4:
                return
        self._forced = self._plan.closing

    def _look_for_close(self) -> None:
        assert self._rules.reasoning is not None
        close = self._rules.reasoning.close.encode()
        at = self._text.find(close, max(0, self._tokens[-1][0] - len(close)))
        if at < 0:
            return
        self._stage = _Stage.FREE
        self._go_to(at + len(close))
        if self._rules.is_held_at_once:
            self._stage, self._matcher = _Stage.HELD, _copy(self._plan.matcher_after_reasoning)
            self._matcher.accepts(self._tokens_from(0))

    def _look_for_trigger(self) -> None:
        found = []
        begun = self._text.lstrip()
        n_before = len(self._text[: self._tokens[-1][0]].lstrip())
        for trigger in self._rules.first_triggers:
            if begun.startswith(trigger.encode()) and n_before < len(trigger.encode()):
                found.append(len(self._text) - len(begun))
        for trigger in self._rules.triggers:
            wanted = trigger.encode()
            at = self._text.find(wanted, max(0, self._tokens[-1][0] - len(wanted) + 1))
            found += [at] if at >= 0 else []
        if not found:
            return
        matcher = _copy(self._plan.matcher)
        if matcher.accepts(self._tokens_from(min(found))):
            self._stage, self._matcher = _Stage.HELD, matcher

    def _go_to(self, at: int) -> None:
        """Begins a stage at a place of this one's text."""
        self._tokens = [(start - at, token) for start, token in self._tokens if start + self._length(token) > at]
        self._text = self._text[at:]

    def _length(self, token: int) -> int:
        return len(self._tokenizer.token_bytes(token))

    def _tokens_from(self, at: int) -> list[int]:
        """Tokens of this stage's text from a place on; the rest of one that was cut is spelled anew."""
        found: list[int] = []
        for start, token in self._tokens:
            if start >= at:
                found.append(token)
            elif start + self._length(token) > at:
                rest = self._tokenizer.token_bytes(token)[at - start :].decode("utf-8", "replace")
                found += vocabulary_of(self._tokenizer).greedy_tokenize(rest)
        return found

    # What may come ------------------------------------------------------------------------------------------------

    def _mask(self) -> Mask | None:
        if self._forced:
            return only(self._forced[0], self._plan.n_logits)
        if self._stage is _Stage.HELD:
            assert self._matcher is not None
            return self._matcher.mask()
        if self._stage is _Stage.REASONING:
            # An answer that has to follow must not be left out.
            return self._everything_but(tuple(self._tokenizer.end_ids)) if self._rules.is_held_at_once else None
        if self._stage is _Stage.OPENING:
            return self._opening_mask()
        return None

    def _opening_mask(self) -> Mask | None:
        open_id = self._plan.open_id
        if open_id is None:
            return None if self._matcher is None else self._matcher.mask()
        if self._matcher is None:
            return self._everything_but((open_id,)) if self._rules.budget == 0 else None
        mask = self._matcher.mask()
        if self._rules.budget != 0:
            mask[open_id // 32] |= np.uint32(1 << open_id % 32)
        return mask

    def _everything_but(self, tokens: tuple[int, ...]) -> Mask:
        return everything_but(self._tokenizer, tokens, self._plan.n_logits)


def _copy(matcher: Matcher | None) -> Matcher:
    assert matcher is not None
    return matcher.copy()


def after_space(grammar: str) -> str:
    """A grammar that may be preceded by a little white space, as answers are after reasoning."""
    grammars = json.loads(grammar)["grammars"]
    grammars[0].setdefault("name", "held")
    spaced = f"start: /[ \\t\\r\\n]{{0,8}}/ @{grammars[0]['name']}"
    return json.dumps({"grammars": [{"name": "spaced", "lark_grammar": spaced}, *grammars]})
