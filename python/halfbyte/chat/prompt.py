"""From messages and tools to a prompt's token ids, whether or not the model's template knows tools."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from halfbyte.chat.gotemplate import GoChatTemplate
from halfbyte.chat.messages import normalized
from halfbyte.chat.template import ChatTemplate
from halfbyte.chat.tools import Tool, dialect_of
from halfbyte.chat.tools.calls import ID_ALPHABET, ID_LENGTH
from halfbyte.errors import InvalidArgumentError
from halfbyte.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]
AnyTemplate = ChatTemplate | GoChatTemplate


def prompt_ids(
    template: AnyTemplate, tokenizer: Tokenizer, messages: Messages, tools: Sequence[Tool], **variables: Any
) -> tuple[list[int], str]:
    """Token ids and text of a rendered conversation.

    What the template writes may be control tokens; what messages say may not: a user cannot forge a turn.
    """
    messages = prepared(template, messages, tools)
    marked, has_marks = _mark_contents(messages, tokenizer)
    known = [tool.to_openai() for tool in tools] if tools and template.knows_tools else None
    text = template.render(marked, tools=known, **variables)
    ids: list[int] = []
    for i, part in enumerate(_split_marks(text, has_marks)):
        if part:
            ids += tokenizer.encode(part, add_bos=False, parse_special=i % 2 == 0)
    bos = tokenizer.bos_id
    if tokenizer.add_bos and bos is not None and (not ids or ids[0] != bos):
        ids.insert(0, bos)
    return ids, text


# Tools --------------------------------------------------------------------------------------------------------------


def prepared(template: AnyTemplate, messages: Messages, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Messages as the template can write them: what it does not know of tools is put into words."""
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidArgumentError('Messages are a list of {"role": ..., "content": ...}.')
    out = _with_one_system(template.source, [normalized(_with_text(message), i) for i, message in enumerate(messages)])
    if not template.knows_calls:
        out = _in_words(template.source, out)
    elif "[TOOL_CALLS]" in template.source:
        out = [_with_short_ids(message) for message in out]
    if tools and not template.knows_tools:
        out = _with_instructions(template.source, out, dialect_of(template.source).instructions(tools))
    return out


def _with_one_system(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates know one system message, the first, and few the developer's: what agents say in several is joined."""
    if "developer" not in template:
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    n_first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if n_first < 2:
        return messages
    texts = [message["content"] for message in messages[:n_first] if message.get("content")]
    return [{"role": "system", "content": "\n\n".join(texts)}, *messages[n_first:]]


def _with_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Results of tools may be any value; templates write text."""
    if message.get("role") != "tool" or isinstance(message.get("content"), (str, list, tuple)):
        return message
    return {**message, "content": json.dumps(message.get("content"), ensure_ascii=False, default=str)}


def _in_words(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls become what the assistant said, results what the user said, those in a row in one turn."""
    dialect = dialect_of(template)
    names: dict[str, str] = {}
    out: list[dict[str, Any]] = []
    for message in messages:
        calls = message.pop("tool_calls", None) or ()
        content = message.get("content") or ""
        if message.get("role") == "tool":
            name = names.get(str(message.pop("tool_call_id", "")), str(message.pop("name", "")))
            message = {"role": "user", "content": dialect.result_text(name, content)}
            if out and out[-1].get("is_result"):
                out[-1]["content"] += "\n" + message["content"]
                continue
            message["is_result"] = True
        elif calls:
            written = [_written(dialect, call, names) for call in calls]
            message["content"] = "\n".join([*([content] if content else []), *written])
        out.append(message)
    return [{key: value for key, value in message.items() if key != "is_result"} for message in out]


def _written(dialect: Any, call: Any, names: dict[str, str]) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidArgumentError("A message's tool_calls need function.name and function.arguments.")
    names[str(call.get("id", ""))] = function["name"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = {"arguments": arguments}
    return str(dialect.call_text(function["name"], arguments))


def _with_instructions(template: str, messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    first = messages[0] if messages else {}
    role = "user" if "System role not supported" in template else "system"
    if first.get("role") == role:
        return [{**first, "content": f"{first.get('content') or ''}\n\n{text}".strip()}, *messages[1:]]
    return [{"role": role, "content": text}, *messages]


_SHORT_ID = re.compile(rf"[A-Za-z0-9]{{{ID_LENGTH}}}")


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Mistral's templates refuse ids of any other form; clients bring those of other servers."""
    if isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = _short_id(message["tool_call_id"])
    calls = message.get("tool_calls")
    if isinstance(calls, (list, tuple)):
        message["tool_calls"] = [
            {**call, "id": _short_id(str(call.get("id", "")))} if isinstance(call, Mapping) else call for call in calls
        ]
    return message


def _short_id(identity: str) -> str:
    if _SHORT_ID.fullmatch(identity):
        return identity
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()
    return "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in digest[:ID_LENGTH])


# Contents -----------------------------------------------------------------------------------------------------------

# Contents are put between marks that no text contains: private-use characters that are taken out of messages first.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


def _mark_contents(messages: Messages, tokenizer: Tokenizer) -> tuple[list[dict[str, Any]], bool]:
    """Messages whose contents are marked when they spell a control token; else as they are."""
    texts = [m["content"] for m in messages if isinstance(m.get("content"), str)]
    forged = any(
        tokenizer.encode(t, add_bos=False, parse_special=True) != tokenizer.encode(t, add_bos=False) for t in texts
    )
    if not forged:
        return [dict(m) for m in messages], False
    marked = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            content = _OPEN + content.replace(_OPEN, "").replace(_CLOSE, "").strip() + _CLOSE
        marked.append({**message, "content": content})
    return marked, True


def _split_marks(text: str, is_marked: bool) -> list[str]:
    """Template text and message contents in turn: even entries are the template's."""
    if not is_marked:
        return [text]
    parts: list[str] = []
    for chunk in text.split(_OPEN):
        if not parts:
            parts.append(chunk)
            continue
        content, _, rest = chunk.partition(_CLOSE)
        parts += [content, rest]
    return parts
