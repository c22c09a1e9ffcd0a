"""What a chat's answer is held to, and how its text is taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from halfbyte.chat.reasoning import may_reason, reasoning_of
from halfbyte.chat.tools import Tool, ToolChoice, chosen_tools, dialect_of
from halfbyte.chat.tools.base import Wanted
from halfbyte.chat.tools.parser import Parser
from halfbyte.errors import InvalidArgumentError
from halfbyte.grammar import Constraint, Plan, Rules, constraint_of, json_schema_constraint
from halfbyte.grammar.constraint import schema_problem
from halfbyte.grammar.matcher import Mask
from halfbyte.params import SamplingParams
from halfbyte.tokenizer import Tokenizer


class MaskPlan(Protocol):
    """Begins a guide for each answer: called with the tokens so far, it says which may follow (None: any)."""

    def begin(self) -> Callable[[Any], Mask | None]: ...


@dataclass(frozen=True)
class AnswerForm:
    """plan: holds each answer to its form; None for free text. shown: control tokens whose names belong to the text.

    new_parser: what takes one answer's text apart; None where all of it is content. parse: from content to a value.
    """

    plan: MaskPlan | None = None
    shown: frozenset[int] = frozenset()
    new_parser: Callable[[], Parser] | None = None
    parse: Callable[[str], Any] | None = None


def plain_form(params: SamplingParams, tokenizer: Tokenizer, n_logits: int) -> AnswerForm:
    """The form of a raw prompt's answer. Raises InvalidArgumentError or UnsupportedError."""
    if params.reasoning_budget is not None:
        raise InvalidArgumentError("reasoning_budget needs a chat: a raw prompt has no marks of reasoning.")
    constraint = constraint_of(params.response_format)
    if constraint is None:
        return AnswerForm()
    return AnswerForm(Plan(Rules(constraint.grammar()), tokenizer, n_logits), parse=constraint.parse)


def chat_form(
    template: str,
    prompt: str,
    params: SamplingParams,
    tokenizer: Tokenizer,
    n_logits: int,
    *,
    tools: Sequence[Tool] = (),
    tool_choice: ToolChoice | None = None,
    parallel_tool_calls: bool = True,
) -> AnswerForm:
    """The form of the answer to a rendered prompt. Raises InvalidArgumentError or UnsupportedError."""
    allowed, must_call = chosen_tools(tools, tool_choice)
    constraint = constraint_of(params.response_format)
    if must_call and constraint is not None:
        raise InvalidArgumentError("An answer that has to call a tool cannot be held to response_format too.")
    dialect, reasoning = dialect_of(template), reasoning_of(template, prompt)

    def control_id(piece: str) -> int | None:
        token = tokenizer.id_of(piece)
        return token if token is not None and tokenizer.is_control(token) else None

    wanted = Wanted([_checked(tool, must_call) for tool in allowed], parallel_tool_calls, control_id)
    calls = dialect.grammar(wanted) if allowed else ""
    rules = Rules(
        grammar=_grammar(calls, dialect.answer(wanted), constraint),
        reasoning=reasoning if may_reason(template, prompt, reasoning) else None,
        budget=params.reasoning_budget,
    )
    if allowed and not must_call and constraint is None:
        rules = replace(rules, triggers=dialect.triggers, first_triggers=dialect.first_triggers)
    marks = [*dialect.markers, *re.findall(r"<[^<>\s]+>|\[/?[A-Z_]+\]", reasoning.open + reasoning.close)]
    return AnswerForm(
        plan=None if rules.is_free else Plan(rules, tokenizer, n_logits),
        shown=frozenset(token for mark in marks if (token := control_id(mark)) is not None),
        new_parser=lambda: Parser(dialect, allowed, reasoning),
        parse=constraint.parse if constraint else None,
    )


def _grammar(calls: str, answer: str, constraint: Constraint | None) -> str | None:
    """Calls, an answer of a form, or either."""
    if constraint is None:
        return Constraint({"lark_grammar": f"%llguidance {{}}\nstart: calls\n{calls}"}).grammar() if calls else None
    start = f"calls | {answer}" if calls else answer
    return constraint.within(f"%llguidance {{}}\nstart: {start}\n{calls}")


def _checked(tool: Tool, must_call: bool) -> Tool:
    """The tool, with a schema that can be kept to. One that cannot is an error where a call is forced; where it is not,
    any object will do, as clients send all kinds of schemas along."""
    if not schema_problem(tool.parameters):
        return tool
    if must_call:
        json_schema_constraint(tool.parameters, name=f"the schema of {tool.name}")  # raises, and says where
    names = tool.parameters["properties"] if isinstance(tool.parameters["properties"], dict) else ()
    return replace(tool, parameters={"type": "object", "properties": {name: {} for name in names}})


def shown_text(form: AnswerForm, tokenizer: Tokenizer) -> Callable[[Sequence[int], bytes], bytes]:
    """Puts the names of shown control tokens among an answer's bytes, which may come later than their tokens."""
    waiting: list[tuple[int, bytes]] = []
    early = bytearray()

    def merge(tokens: Sequence[int], data: bytes) -> bytes:
        for token in tokens:
            is_shown = token in form.shown
            waiting.append((0, tokenizer.token_bytes(token)) if is_shown else (len(tokenizer.output_bytes[token]), b""))
        early.extend(data)
        out = bytearray()
        while waiting and waiting[0][0] <= len(early):
            n_bytes, name = waiting.pop(0)
            out += early[:n_bytes] + name
            del early[:n_bytes]
        return bytes(out)

    return merge
