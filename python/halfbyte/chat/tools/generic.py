"""Models whose template knows no tools: the system prompt explains them, calls come as Hermes writes them."""

from __future__ import annotations

from collections.abc import Generator

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.hermes import Hermes


class Generic(Hermes):
    """The last resort; it fits every template."""

    name = "generic"
    # Untrained models leave the tags out; an object that names a known tool is a call all the same.
    first_openers = ("```json\n{", "{")
    first_triggers = ('{"name": "',)

    def detects(self, template: str) -> bool:
        return True

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener in self.first_openers:
            source.skip(-1)
        yield from super().read(source, calls, opener)
        if opener.startswith("`"):
            yield from source.skip_space()
            yield from source.accept("```")

    def grammar(self, wanted: Wanted) -> str:
        bare = self.any_call(wanted, '{"name": "NAME", "arguments": ', "}")
        return super().grammar(wanted).replace("calls:", "calls: bare |", 1) + f"bare: {bare}\n"


DIALECT: Dialect = Generic()
