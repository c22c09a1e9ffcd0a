"""A chat's answer, for every protocol that has chats: from messages to a prompt, from text to content, reasoning and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from halfbyte.chat.tools import Delta, Message, chosen_tools, tools_from
from halfbyte.grammar import Constraint
from halfbyte.llm import ChatPrompt
from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel

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

    def __init__(self) -> None:
        self.message = Message()
        self.n_reasoning = 0  # tokens that were reasoning
        self.output: Output | None = None
        self.finish_reason: str | None = None

    @classmethod
    def of(cls, output: Output) -> ChatAnswer:
        """A finished one."""
        answer = cls()
        answer.message = Message(output.text, output.reasoning, output.tool_calls)
        answer.output, answer.finish_reason = output, output.finish_reason
        return answer

    def feed(self, piece: Piece) -> list[Delta]:
        """What a piece adds to the message."""
        deltas = [Delta(reasoning=piece.reasoning)] if piece.reasoning else []
        deltas += [Delta(content=piece.text)] if piece.text else []
        deltas += [Delta(tool_call=call) for call in piece.tool_calls]
        self.message.add(deltas)
        self.n_reasoning += len(piece.token_ids) if piece.reasoning else 0
        self.output, self.finish_reason = piece.output, piece.finish_reason
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
        """The finished answers that were asked for."""
        async for _ in self:
            pass
        outputs = [answer.output for answer in self.answers if answer.output is not None]
        return [ChatAnswer.of(output) for output in Output.chosen(outputs)]

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
        return sum(answer.n_generated for answer in self._job.answers)

    @property
    def n_reasoning(self) -> int:
        """Of them, reasoning."""
        return sum(answer.n_reasoning for answer in self.answers)


async def chat_prompt(call: Call, model: LoadedModel, ask: ChatAsk, param: str = "messages") -> ChatPrompt:
    """The prompt that a chat becomes. param: the field that holds the messages. Raises ApiError."""
    tools = await call.work("tools", tools_from, ask.tools)
    await call.work("tool_choice", chosen_tools, tools, ask.tool_choice)
    form = ask.params
    if ask.constraint is not None:
        form, param = replace(ask.params, response_format=ask.constraint[1]), ask.constraint[0]
    work = partial(
        model.llm.chat_prompt,
        ask.messages,
        form,
        tools=tools,
        tool_choice=ask.tool_choice,
        parallel_tool_calls=ask.parallel_tool_calls,
        **_for_template(ask),
    )
    prompt: ChatPrompt = await call.work(param, work)
    return prompt


async def start_chat(call: Call, model: LoadedModel, ask: ChatAsk, *, param: str = "messages") -> ChatRun:
    """Queues the answers that a chat asks for. param: the field that holds the messages. Raises ApiError."""
    return submit_chat(call, model, ask, await chat_prompt(call, model, ask, param), param=param)


def submit_chat(
    call: Call, model: LoadedModel, ask: ChatAsk, prompt: ChatPrompt, *, param: str = "messages"
) -> ChatRun:
    """The same with a prompt that is made."""
    field = ask.constraint[0] if ask.constraint is not None else "tools" if ask.tools else param
    job = call.submit(model, [Prompt(prompt.ids, ask.params, prompt.form, field)], param=param)
    return ChatRun(job, [ChatAnswer() for _ in job.answers])


def _for_template(ask: ChatAsk) -> dict[str, Any]:
    taken = _TAKEN & ask.variables.keys()
    if taken:
        text = f"chat_template_kwargs may not hold {', '.join(sorted(taken))}."
        raise ApiError(400, text, param="chat_template_kwargs")
    return {
        "add_generation_prompt": ask.add_generation_prompt,
        "continue_final_message": ask.continue_final_message,
        **ask.variables,
    }
