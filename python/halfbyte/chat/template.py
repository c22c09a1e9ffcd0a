"""Chat templates: a model's own Jinja template, rendered in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from halfbyte.chat.builtin import BUILTIN_TEMPLATES, guess_template
from halfbyte.errors import InvalidArgumentError, TemplateError

Message = Mapping[str, Any]


_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


@cache
def _sandbox() -> Any:
    from halfbyte.chat.sandbox import Sandbox  # Jinja costs 50 ms: only when a template is used

    return Sandbox()


class ChatTemplate:
    """Turns messages into the text a model was trained to see.

    source: Jinja text. name: where it came from, for messages. variables: what the template may name besides the
    messages (bos_token, eos_token, ...).
    """

    def __init__(self, source: str, *, name: str = "template", variables: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.name = name
        self.variables = dict(variables or {})
        code = _CODE.findall(source)
        #: Whether it writes the tools into the prompt, and earlier calls of them.
        self.knows_tools = any(re.search(r"\btools\b", part) for part in code)
        self.knows_calls = any("tool_calls" in part for part in code)
        try:
            self._template = _sandbox().from_string(source)
        except Exception as error:  # jinja2 raises its own errors and, on odd input, Python's
            raise TemplateError(f"The chat template ({name}) does not compile: {error}") from error

    @classmethod
    def builtin(cls, name: str, variables: Mapping[str, Any] | None = None) -> ChatTemplate:
        """A template by name (chatml, llama-3, ...)."""
        if name not in BUILTIN_TEMPLATES:
            raise InvalidArgumentError(
                f'There is no chat template "{name}".', hint=f"Known are {', '.join(sorted(BUILTIN_TEMPLATES))}."
            )
        return cls(BUILTIN_TEMPLATES[name], name=name, variables=variables)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], variant: str | None = None) -> ChatTemplate:
        """The file's own template (or its variant of that name); else one guessed from its special tokens."""
        tokens = metadata.get("tokenizer.ggml.tokens") or []

        def token(name: str) -> str:
            i = metadata.get(f"tokenizer.ggml.{name}_token_id")
            return str(tokens[i]) if isinstance(i, int) and 0 <= i < len(tokens) else ""

        variables = {
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "unk_token": token("unknown"),
            "pad_token": token("padding"),
        }
        key = "tokenizer.chat_template" + (f".{variant}" if variant else "")
        source = metadata.get(key)
        if isinstance(source, str) and source.strip():
            return cls(source, name=key, variables=variables)
        if variant:
            known = [str(v) for v in metadata.get("tokenizer.chat_templates") or []]
            raise InvalidArgumentError(
                f'The model has no chat template "{variant}".', hint=f"It has {', '.join(known) or 'only one'}."
            )
        guess = guess_template(set(tokens), metadata)
        return cls(BUILTIN_TEMPLATES[guess], name=f"{guess} (guessed)", variables=variables)

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
        """The prompt's text.

        add_generation_prompt: end with the opening of the assistant's turn. continue_final_message: leave the last
        message open instead, so that the model goes on with it. Raises TemplateError when the template fails, runs
        too long, or touches what it must not.
        """
        if not messages:
            raise InvalidArgumentError("A chat needs at least one message.")
        if continue_final_message and add_generation_prompt:
            add_generation_prompt = False
        known = [normalized(message, i) for i, message in enumerate(messages)]
        values = {
            **self.variables,
            "messages": known,
            "tools": list(tools) if tools else None,
            "documents": list(documents) if documents else None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        try:
            text = self._rendered(values)
        except TemplateError:
            # Some templates join the arguments of calls to text themselves, and want them as JSON.
            as_text = [_with_text_arguments(message) for message in known]
            if as_text == known:
                raise
            text = self._rendered({**values, "messages": as_text})
        if continue_final_message:
            return _open_end(text, known[-1])
        return text

    def _rendered(self, values: dict[str, Any]) -> str:
        try:
            return str(_sandbox().render_bounded(self._template, values))
        except RecursionError as error:
            raise TemplateError(f"The chat template ({self.name}) calls itself without end.") from error
        except Exception as error:  # whatever a stranger's template does is the template's failure
            raise TemplateError(f"The chat template ({self.name}) failed: {error}") from error


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


def _open_end(text: str, message: Mapping[str, Any]) -> str:
    content = str(message.get("content") or "").rstrip()
    at = text.rfind(content) if content else -1
    if at < 0:
        raise TemplateError("The last message cannot be continued: the template does not show its content as it is.")
    return text[: at + len(content)]
