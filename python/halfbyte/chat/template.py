"""Chat templates: a model's own Jinja template, rendered in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from halfbyte.chat.budget import Budget
from halfbyte.chat.builtin import BUILTIN_TEMPLATES, guess_template
from halfbyte.chat.messages import Message, described, in_parts, n_missing, normalized, simpler
from halfbyte.errors import InvalidArgumentError, TemplateError

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
        text = self._rendered_somehow(values)
        if continue_final_message:
            return _open_end(text, known[-1])
        return text

    def _rendered_somehow(self, values: dict[str, Any]) -> str:
        """With the messages as they are if the template shows all that was said; else in the form of which it shows most.

        Raises what went wrong first when it renders in none.
        """
        known = values["messages"]
        tools = described(values["tools"] or [])
        changes = [{"messages": messages, "tools": tools} for messages in (*simpler(known), in_parts(known))]
        first_error: TemplateError | None = None
        best: tuple[int, str] | None = None
        budget = Budget()  # of all forms together
        for changed in ({}, *changes):
            try:
                text = self._rendered({**values, **changed}, budget)
            except TemplateError as error:
                from jinja2.exceptions import SecurityError

                # What takes too much is not tried again.
                if isinstance(error.__cause__, (SecurityError, TemplateError)):
                    if best is None:
                        raise
                    break
                first_error = first_error or error
                continue
            lacking = n_missing(known, text)
            if lacking == 0:
                return text
            best = (lacking, text) if best is None or lacking < best[0] else best
        if best is not None:
            return best[1]
        assert first_error is not None
        raise first_error

    def _rendered(self, values: dict[str, Any], budget: Budget) -> str:
        try:
            return str(_sandbox().render_bounded(self._template, deepcopy(values), budget))
        except RecursionError as error:
            raise TemplateError(f"The chat template ({self.name}) calls itself without end.") from error
        except Exception as error:  # whatever a stranger's template does is the template's failure
            raise TemplateError(f"The chat template ({self.name}) failed: {error}") from error


def _open_end(text: str, message: Mapping[str, Any]) -> str:
    content = str(message.get("content") or "").rstrip()
    at = text.rfind(content) if content else -1
    if at < 0:
        raise TemplateError("The last message cannot be continued: the template does not show its content as it is.")
    return text[: at + len(content)]
