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


def _with_empty_content(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": ""} if message.get("content") is None else message


def _with_system_in_first_turn(messages: Messages) -> Messages:
    if messages[0]["role"] != "system":
        return messages
    system, rest = messages[0].get("content") or "", messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{**messages[0], "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system}\n\n{rest[0].get('content') or ''}".strip()}, *rest[1:]]


def simpler(messages: Messages) -> Iterator[Messages]:
    """The messages, and then with ever less that a template may trip over.

    First no content is empty content, then the arguments of calls are JSON text, then the system's words begin the
    user's first turn.
    """
    steps: tuple[Callable[[Messages], Messages], ...] = (
        lambda messages: [_with_empty_content(message) for message in messages],
        lambda messages: [_with_text_arguments(message) for message in messages],
        _with_system_in_first_turn,
    )
    yield messages
    for step in steps:
        changed = step(messages)
        if changed != messages:
            messages = changed
            yield messages


def in_parts(messages: Messages) -> Messages:
    """Every text as a list with one part."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]
