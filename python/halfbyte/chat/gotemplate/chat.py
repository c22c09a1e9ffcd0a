"""A conversation through a Go template, by Ollama's rules: which names it sees, and how older templates are repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from halfbyte.chat.gotemplate.parse import names as names_of
from halfbyte.chat.gotemplate.parse import parse, until_field
from halfbyte.chat.gotemplate.run import run
from halfbyte.chat.messages import Message, normalized
from halfbyte.errors import InvalidArgumentError

_GO = re.compile(r"\{\{-?\s*(?:\.|\$|/\*|(?:if|range|with|template|define|block)\s+[\"(.$a-z])")


def is_go_template(source: str) -> bool:
    """Whether a template is Go's and not Jinja's."""
    return "{%" not in source and _GO.search(source) is not None


class GoChatTemplate:
    """Like ChatTemplate, for templates of Modelfiles. Raises TemplateError when the source is damaged."""

    def __init__(self, source: str, *, name: str = "TEMPLATE", variables: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.name = name
        self.variables = dict(variables or {})
        self._tree = parse(source)
        seen = names_of(self._tree.nodes).union(*(names_of(nodes) for nodes in self._tree.defined.values()))
        self.knows_suffix = "Suffix" in seen
        self.knows_tools, self.knows_calls = "Tools" in seen, "ToolCalls" in seen
        self._repeats = "Messages" not in seen
        if self._repeats and "Response" not in seen:
            self._tree = parse(source + "{{ .Response }}")

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt's text. A last message of the assistant's is left open; otherwise its turn is opened, for such
        templates know nothing else (add_generation_prompt, documents are ChatTemplate's)."""
        if not messages:
            raise InvalidArgumentError("A chat needs at least one message.")
        known = _merged([normalized(message, i) for i, message in enumerate(messages)])
        if continue_final_message and known[-1]["role"] != "assistant":
            raise InvalidArgumentError("Only a last message of the assistant's can be continued.")
        think = variables.get("enable_thinking")
        common = {
            "Think": bool(think),
            "ThinkLevel": variables.get("reasoning_effort") or "",
            "IsThinkSet": think is not None,
        }
        if self._repeats:
            return self._repeated(known, common)
        system = "\n\n".join(m["content"] or "" for m in known if m["role"] == "system")
        data = {
            "System": system,
            "Messages": known,
            "Tools": [_in_order(tool) for tool in tools or ()],
            "Response": "",
            **common,
        }
        return run(self._tree, self._tree.nodes, data)

    def fill(self, prompt: str, suffix: str) -> str:
        """The prompt for text between a prompt and what follows it."""
        data = {"Prompt": prompt, "Suffix": suffix, "Response": "", "Think": False, "IsThinkSet": False}
        return run(self._tree, self._tree.nodes, data)

    def _repeated(self, messages: list[dict[str, Any]], common: dict[str, Any]) -> str:
        """An older template knows one turn: it is run for each, the last one up to its answer."""
        turns: list[dict[str, str]] = [{}]
        for message in messages:
            name = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message["role"], "Prompt")
            order = ["System", "Prompt", "Response"]
            if any(order.index(there) >= order.index(name) for there in turns[-1]):
                turns.append({})
            turns[-1][name] = message["content"] or ""
        text = ""
        for i, turn in enumerate(turns):
            nodes = self._tree.nodes if i < len(turns) - 1 else until_field(self._tree.nodes, "Response")[0]
            data = {"System": "", "Prompt": "", "Response": "", "First": i == 0, **common, **turn}
            text += run(self._tree, nodes, data)
        return text


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Consecutive messages of one role as one; those of tools stay apart."""
    out: list[dict[str, Any]] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"] != "tool":
            out[-1] = {**out[-1], "content": f"{out[-1]['content'] or ''}\n\n{message['content'] or ''}"}
        else:
            out.append(message)
    return out


_ORDER = ("type", "$defs", "name", "items", "required", "properties", "description", "enum", "parameters", "function")


def _in_order(tool: Any) -> Any:
    """A tool with its fields in the order in which Ollama writes them."""
    if not isinstance(tool, Mapping):
        return tool
    keys = sorted(tool, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
    out = {}
    for key in keys:
        value = tool[key]
        if key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _in_order(one) for name, one in value.items()}
        else:
            out[key] = _in_order(value) if isinstance(value, Mapping) else value
    return out
