"""What a dialect of tool calls is."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, mapped
from halfbyte.chat.reasoning import read_reasoning
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.grammar import Reasoning


@dataclass(frozen=True)
class Wanted:
    """What a grammar is for: the tools, whether several calls may come, and which texts are control tokens."""

    tools: Sequence[Tool]
    parallel: bool
    token_id: lark.ControlTokenId


class Dialect:
    """How one family of models writes tool calls. A subclass fills in the class variables and the methods."""

    name: ClassVar[str]
    #: Texts that may be control tokens of the vocabulary and are wanted in the answer's text.
    markers: ClassVar[tuple[str, ...]] = ()
    #: Texts that begin calls wherever they come, and texts that do so only at the beginning of an answer.
    openers: ClassVar[tuple[str, ...]] = ()
    first_openers: ClassVar[tuple[str, ...]] = ()
    #: Texts with which calls begin as the grammar writes them: from there on an answer is held to it. The second kind
    #: counts only at the beginning of an answer.
    triggers: ClassVar[tuple[str, ...]] = ()
    first_triggers: ClassVar[tuple[str, ...]] = ()

    def detects(self, template: str) -> bool:
        """Whether a chat template's text is of this family."""
        raise NotImplementedError

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        """Reads the calls after an opener. Raises NotACallError at what cannot be a call."""
        raise NotImplementedError

    def grammar(self, wanted: Wanted) -> str:
        """Lark rules of one or more calls, opener and all; the first is named `calls`."""
        raise NotImplementedError

    def answer(self, wanted: Wanted) -> str:
        """Lark of an answer without calls, whose content follows the grammar @answer."""
        return "@answer"

    # Words, where a template does not write tools, calls or results -------------------------------------------------

    def call_text(self, name: str, arguments: Any) -> str:
        """A call as the model would write it."""
        raise NotImplementedError

    def result_text(self, name: str, content: str) -> str:
        """A tool's result as the user says it."""
        return f"<tool_response>\n{content}\n</tool_response>"

    def instructions(self, tools: Sequence[Tool]) -> str:
        """What the system prompt says about the tools."""
        listed = "\n".join(json.dumps(tool.to_openai(), ensure_ascii=False) for tool in tools)
        return (
            f"You may call these functions, given as JSON schemas:\n<tools>\n{listed}\n</tools>\n"
            "To call a function, answer in this form, with its name and its arguments:\n"
            f"{self.call_text('function_name', {'argument': 'value'})}\n"
            f"Its result then comes like this:\n{self.result_text('function_name', '...')}\n"
            "Answer in plain text when no function is needed."
        )

    # Parsing ------------------------------------------------------------------------------------------------------

    def parse(self, source: Incoming, calls: Calls, reasoning: Reasoning) -> Generator[Delta | None, None, None]:
        """Reads a whole answer."""
        yield from read_reasoning(source, reasoning)
        opener = (yield from self._first_opener(source)) if calls.tools else None
        while True:
            if opener is not None:
                yield from self._attempt(source, calls, opener)
                if calls.n_begun and (yield from self._only_space_left(source)):
                    return
            openers = self.openers if calls.tools else ()
            text = source.until(openers, keep_space=False, pin=True)
            opener = yield from mapped(text, lambda piece: Delta(content=piece))
            if opener is None:
                return

    def _first_opener(self, source: Incoming) -> Generator[Delta | None, None, str | None]:
        source.pin()
        yield from source.skip_space()
        for opener in self.first_openers:
            if (yield from source.accept(opener)):
                return opener
        spaces = source.since_pin()
        if spaces:
            yield Delta(content=spaces)
        return None

    def _only_space_left(self, source: Incoming) -> Generator[None, None, bool]:
        source.pin()
        yield from source.skip_space()
        is_end = not (yield from source.wait())
        source.rewind()
        return is_end

    def _attempt(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        try:
            yield from self.read(source, calls, opener)
            source.unpin()
        except NotACallError:
            text = source.since_pin()
            if text:
                yield Delta(content=text)

    # Grammars -----------------------------------------------------------------------------------------------------

    def marked(self, literal: str, wanted: Wanted) -> str:
        """Lark of a text with this dialect's markers in it."""
        return lark.marked(literal, self.markers, wanted.token_id)

    def any_call(self, wanted: Wanted, before: str, after: str) -> str:
        """Lark of a call of any of the tools: text, the arguments by the tool's schema, text.

        NAME in the texts stands for the tool's name.
        """
        alternatives = []
        for tool in wanted.tools:
            head, tail = (self.marked(s.replace("NAME", tool.name), wanted) for s in (before, after))
            alternatives.append(f"{head} {lark.schema(tool.parameters)}" + (f" {tail}" if after else ""))
        return lark.one_of(alternatives)


def json_call(name: str, arguments: Any, key: str = "arguments") -> str:
    """The object that most families write."""
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)
