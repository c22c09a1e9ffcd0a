"""What a program is made of besides text: places for the model to fill in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from halfbyte.errors import InvalidArgumentError


class Parts(tuple["Part | str", ...]):
    """Parts and texts in a row."""

    def __add__(self, other: Any) -> Parts:
        return Parts((*self, *other)) if isinstance(other, tuple) else Parts((*self, other))

    def __radd__(self, other: Any) -> Parts:
        return Parts((other, *self))


class Part:
    """A place; with texts and other places it adds up to Parts."""

    def __add__(self, other: Any) -> Parts:
        return Parts((self, *other)) if isinstance(other, tuple) else Parts((self, other))

    def __radd__(self, other: Any) -> Parts:
        return Parts((other, self))


@dataclass(frozen=True)
class Gen(Part):
    """Generated text; see gen()."""

    name: str | None
    options: dict[str, Any]


@dataclass(frozen=True)
class Select(Part):
    """The likeliest of some texts; see select()."""

    name: str | None
    choices: tuple[str, ...]
    per_token: bool


def gen(name: str | None = None, **options: Any) -> Any:
    """The model goes on here. options: fields of SamplingParams (max_tokens, stop, temperature, response_format, ...).

    The program keeps the text under the name; with a response_format, the value that it was parsed to.
    """
    return Gen(name, options)


def select(name: str | None, choices: Sequence[str], *, per_token: bool = False) -> Any:
    """The choice that the model finds likeliest here. per_token compares the mean over a choice's tokens instead of
    the sum, which favours short choices."""
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise InvalidArgumentError("select() needs texts to choose from, none of them empty.")
    return Select(name, tuple(choices), per_token)
