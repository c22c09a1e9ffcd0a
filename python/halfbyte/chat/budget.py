"""What one rendering of a template that nobody has read may cost: steps, time, and text made on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from halfbyte.errors import TemplateError

# Real templates take thousands of steps and give kilobytes; a hundred-message chat stays far below these.
_MAX_STEPS = 2_000_000
_MAX_SECONDS = 10.0
#: Characters of a text, and of all texts in a value together.
MAX_TEXT = 32 << 20
# Elements of a value, those of its elements included.
_MAX_ELEMENTS = 500_000
# Characters of all values together: a template may keep what it has made.
_MAX_MADE = 16 * MAX_TEXT
_ELEMENT_COST = 64  # in characters: about its bytes


class Budget:
    """What is left to one rendering. Every method raises TemplateError when it is too little."""

    def __init__(self) -> None:
        self._steps = 0
        self._made = 0
        self._next_look = 0
        # This thread's processor time: what else runs on the machine, or that it sleeps, is no fault of the template.
        self._deadline = time.thread_time() + _MAX_SECONDS

    def spend(self, n_steps: int = 1) -> None:
        """Takes steps off."""
        self._steps += n_steps
        if self._steps > _MAX_STEPS:
            raise TemplateError(f"The template takes more than {_MAX_STEPS:,} steps.")
        if self._steps >= self._next_look:
            self._next_look = self._steps + 256
            if time.thread_time() > self._deadline:
                raise TemplateError(f"The template computes for more than {_MAX_SECONDS:.0f} seconds.")

    def make(self, n_characters: int) -> None:
        """Takes the characters of a new value off. Call it before the value is made where its size is known."""
        if n_characters > MAX_TEXT:
            raise TemplateError(f"The template makes a value of more than {MAX_TEXT:,} characters.")
        self._made += n_characters
        if self._made > _MAX_MADE:
            raise TemplateError(f"The template makes more than {_MAX_MADE:,} characters in all.")
        self.spend(1 + (n_characters >> 12))

    def made(self, value: Any) -> Any:
        """The value, taken off: texts by length, lists by their elements alone."""
        if isinstance(value, (str, bytes)):
            self.make(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.make(_ELEMENT_COST * len(value))
        return value

    def weighed(self, value: Any) -> Any:
        """The value, taken off with all that it holds: lists of lists can be as long as a power of their number."""
        if isinstance(value, (list, tuple, dict)):
            self.make(len(value) * _ELEMENT_COST)
            self.weight(value)
            return value
        return self.made(value)

    def weight(self, value: Any) -> int:
        """Characters that the value has when it is written, roughly."""
        left, n_elements, n_characters, n_looked = [value], 0, 0, 0
        while left:
            item = left.pop()
            if isinstance(item, (str, bytes)):
                n_characters += len(item)
            elif isinstance(item, (list, tuple, set, Mapping)):
                n_elements += len(item)
                if n_elements - n_looked >= 4096:
                    n_looked = n_elements
                    self.spend(256)
                if n_elements > _MAX_ELEMENTS or n_characters > MAX_TEXT:
                    raise TemplateError(f"The template makes a value of more than {_MAX_ELEMENTS:,} elements.")
                left.extend(item)
                if isinstance(item, Mapping):
                    left.extend(item.values())
        return n_characters + 8 * n_elements
