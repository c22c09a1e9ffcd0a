"""A chat's answer, for every protocol that has chats: from messages to a prompt, from text to content, reasoning and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from halfbyte.chat.tools import Delta, Message, Parser, chosen_tools, make_grammar, make_parser, tools_from
from halfbyte.grammar import Constraint, lark_constraint
from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Job
from halfbyte.server.call import Call
from halfbyte.server.constraints import constrained
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.tokenizer import Tokenizer

# So many of a prompt's last tokens show whether it has opened the model's reasoning.
_N_PROMPT_END = 64
# What a request may not hand to the template under its own names.
_TAKEN = frozenset(("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "self"))


@dataclass
class ChatAsk:
    """What a chat request asks, in OpenAI's terms. variables reach the template."""

    messages: Sequence[Mapping[str, Any]]
    params: SamplingParams = field(default_factory=SamplingParams)
    constraint: tuple[str, Constraint] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool = True
    variables: dict[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class ChatAnswer:
    """One answer as it grows. finish_reason: None until it is over, then "stop", "length" or "tool_calls"."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.message = Message()
        self.n_reasoning = 0  # tokens that were reasoning
        self.output: Output | None = None
        self.finish_reason: str | None = None

    def feed(self, piece: Piece) -> list[Delta]:
        """What a piece adds to the message."""
        deltas = self._parser.feed(piece.text)
        if piece.output is not None:
            deltas += self._parser.finish()
            self.output = piece.output
        if any(delta.reasoning for delta in deltas):
            self.n_reasoning += len(piece.token_ids)
        self.message.add(deltas)
        if piece.finish_reason is not None:
            stopped = piece.finish_reason == "stop"
            self.finish_reason = "tool_calls" if stopped and self.message.tool_calls else piece.finish_reason
        return deltas


class ChatRun:
    """A chat's answers under way. Iterate for (index, what is new, piece)."""

    def __init__(self, job: Job, answers: list[ChatAnswer]) -> None:
        self._job = job
        self.answers = answers

    async def __aiter__(self) -> AsyncIterator[tuple[int, list[Delta], Piece]]:
        async for index, piece in self._job:
            yield index, self.answers[index].feed(piece), piece

    async def wait(self) -> list[ChatAnswer]:
        """The finished answers."""
        async for _ in self:
            pass
        return self.answers

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return self._job.answers[0].usage.prompt_tokens

    @property
    def n_cached(self) -> int:
        """Of them, found in the prefix cache."""
        return self._job.answers[0].usage.cached_tokens

    @property
    def n_generated(self) -> int:
        """Tokens of all answers so far."""
        return sum(answer.usage.completion_tokens for answer in self._job.answers)

    @property
    def n_reasoning(self) -> int:
        """Of them, reasoning."""
        return sum(answer.n_reasoning for answer in self.answers)


async def chat_ids(call: Call, model: LoadedModel, ask: ChatAsk, param: str = "messages") -> list[int]:
    """Token ids of the prompt that a chat becomes. param: the field that holds the messages. Raises ApiError."""
    return await call.work(param, partial(model.llm.chat_ids, ask.messages, **_for_template(ask)))


async def chat_text(call: Call, model: LoadedModel, ask: ChatAsk) -> str:
    """The text of that prompt. Raises ApiError."""
    return await call.work("messages", partial(model.llm.chat_template.render, ask.messages, **_for_template(ask)))


async def start_chat(call: Call, model: LoadedModel, ask: ChatAsk, *, param: str = "messages") -> ChatRun:
    """Queues the answers that a chat asks for. param: the field that holds the messages. Raises ApiError."""
    tokenizer, template = model.llm.tokenizer, model.llm.chat_template.source
    tools = await call.work("tools", tools_from, ask.tools)
    allowed, must_call = await call.work("tool_choice", chosen_tools, tools, ask.tool_choice)
    constraint = ask.constraint
    if must_call:
        if constraint is not None:
            raise ApiError(400, f"A forced tool call cannot be held to {constraint[0]} too.", param=constraint[0])
        grammar = make_grammar(
            template, allowed, "required", parallel=ask.parallel_tool_calls, token_id=partial(_control_id, tokenizer)
        )
        assert grammar is not None
        constraint = ("tools", lark_constraint(grammar))
    ids = await chat_ids(call, model, ask, param)
    blamed = constraint[0] if constraint else param
    prompts = await call.work(blamed, constrained, ids, ask.params, constraint, tokenizer)
    job = call.submit(model, prompts, param=param)
    prompt_end = tokenizer.decode(ids[-_N_PROMPT_END:])
    return ChatRun(job, [ChatAnswer(make_parser(template, allowed, prompt=prompt_end)) for _ in job.answers])


def _control_id(tokenizer: Tokenizer, piece: str) -> int | None:
    token = tokenizer.id_of(piece)
    return token if token is not None and tokenizer.is_control(token) else None


def _for_template(ask: ChatAsk) -> dict[str, Any]:
    taken = _TAKEN & ask.variables.keys()
    if taken:
        text = f"chat_template_kwargs may not hold {', '.join(sorted(taken))}."
        raise ApiError(400, text, param="chat_template_kwargs")
    return {
        "tools": ask.tools,
        "add_generation_prompt": ask.add_generation_prompt,
        "continue_final_message": ask.continue_final_message,
        **ask.variables,
    }
