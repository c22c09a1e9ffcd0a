"""Messages as chat templates expect them, and in the simpler forms that some templates need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from halfbyte.errors import InvalidArgumentError

Message = Mapping[str, Any]
Messages = list[dict[str, Any]]


def normalized(message: Message, index: int) -> dict[str, Any]:
    """A message as templates expect it: text content joined from parts, tool arguments as objects."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidArgumentError(f'Message {index} needs a "role" and a "content".')
    out = dict(message)
    content = out.get("content")
    if isinstance(content, (list, tuple)):
        texts = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type", "text") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise InvalidArgumentError(f"Message {index} has content of type {kind}; only text is understood.")
            texts.append(str(part.get("text", "")))
        out["content"] = "\n".join(texts)
    elif content is not None and not isinstance(content, str):
        raise InvalidArgumentError(f"Message {index} has content that is neither text nor a list of parts.")
    elif content is None:
        out["content"] = "" if not out.get("tool_calls") else None
    if isinstance(out.get("reasoning"), str):  # as OpenRouter and vLLM call it
        out.setdefault("reasoning_content", out["reasoning"])
    calls = out.get("tool_calls")
    if isinstance(calls, (list, tuple)):
        out["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return out


def _with_object_arguments(call: Any) -> Any:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return call
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    out = []
    for call in calls:
        if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
            arguments = call["function"].get("arguments")
            if not isinstance(arguments, str):
                written = json.dumps(arguments or {}, ensure_ascii=False)
                call = {**call, "function": {**call["function"], "arguments": written}}
        out.append(call)
    return {**message, "tool_calls": out}


def _with_no_content(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": None} if message.get("tool_calls") and message.get("content") == "" else message


def _with_empty_content(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": ""} if message.get("content") is None else message


def _as_system(messages: Messages) -> Messages:
    """The developer's words are the system's."""
    return [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]


def _with_late_systems_said(messages: Messages) -> Messages:
    """What the system says after the beginning, the user says."""
    n_first = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    late = [{**m, "role": "user"} if m["role"] == "system" else m for m in messages[n_first:]]
    return [*messages[:n_first], *late]


def _one_call_each(messages: Messages) -> Messages:
    """Calls made at once become one after another, each with its result."""
    out: Messages = []
    results = {str(m.get("tool_call_id")): m for m in messages if m["role"] == "tool" and m.get("tool_call_id")}
    moved = set()
    for message in messages:
        calls = message.get("tool_calls")
        if not isinstance(calls, list) or len(calls) < 2:
            out += [] if id(message) in moved else [message]
            continue
        for i, call in enumerate(calls):
            out.append({**message, "tool_calls": [call], **({} if i == 0 else {"content": None})})
            result = results.get(str(call.get("id"))) if isinstance(call, Mapping) else None
            if result is not None:
                moved.add(id(result))
                out.append(result)
    return out


def _in_turns(messages: Messages) -> Messages:
    """What one role says in a row is one message."""
    out: Messages = []
    for message in messages:
        before = out[-1] if out else None
        plain = before is not None and not any(m.get("tool_calls") for m in (before, message))
        if before is not None and plain and before["role"] == message["role"] and message["role"] != "tool":
            said = [str(m["content"]) for m in (before, message) if m.get("content")]
            out[-1] = {**before, "content": "\n\n".join(said)}
        else:
            out.append(message)
    return out


def _with_system_in_first_turn(messages: Messages) -> Messages:
    if messages[0]["role"] != "system":
        return messages
    system, rest = messages[0].get("content") or "", messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{**messages[0], "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system}\n\n{rest[0].get('content') or ''}".strip()}, *rest[1:]]


_Step = Callable[[Messages], Messages]
# Ways to write a message with calls, each a try of its own.
_SPELLINGS: tuple[_Step, ...] = (
    lambda messages: messages,
    lambda messages: [_with_empty_content(message) for message in messages],
    lambda messages: [_with_text_arguments(message) for message in messages],
    lambda messages: [_with_empty_content(_with_text_arguments(message)) for message in messages],
    lambda messages: [_with_no_content(message) for message in messages],
    lambda messages: [_with_no_content(_with_text_arguments(message)) for message in messages],
)
# Ways to order a conversation, each on top of those before.
_STEPS: tuple[_Step, ...] = (
    lambda messages: messages,
    _as_system,
    _one_call_each,
    _with_late_systems_said,
    _in_turns,
    _with_system_in_first_turn,
)


def simpler(messages: Messages) -> Iterator[Messages]:
    """The messages, and then other forms with ever less that a template may trip over."""
    tried: list[Messages] = []
    for step in _STEPS:
        messages = step(messages)
        for spelling in _SPELLINGS:
            form = spelling(messages)
            if form not in tried:
                tried.append(form)
                yield form


def n_missing(messages: Messages, text: str) -> int:
    """How much of what was said to the model, and of what it called, a rendered text lacks."""
    n = 0
    for message in messages:
        content = message.get("content") if message["role"] in ("user", "system", "developer") else None
        n += isinstance(content, str) and content.strip() not in text
        calls = message.get("tool_calls") if message["role"] == "assistant" else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if not isinstance(function, Mapping):
                continue
            arguments = function.get("arguments")
            values = arguments.values() if isinstance(arguments, Mapping) else ()
            for value in (function.get("name"), *values):
                if isinstance(value, str):
                    written = (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
                    n += not any(form in text for form in written)
    return n


def in_parts(messages: Messages) -> Messages:
    """Every text as a list with one part."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def described(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools in which everything has a description, if an empty one: some templates take that for granted."""
    out = []
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, Mapping):
            out.append(tool)
            continue
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(parameters, Mapping) and isinstance(properties, Mapping):
            named = {k: {"description": "", **p} if isinstance(p, Mapping) else p for k, p in properties.items()}
            function = {**function, "parameters": {**parameters, "properties": named}}
        out.append({**tool, "function": {"description": "", **function}})
    return out
