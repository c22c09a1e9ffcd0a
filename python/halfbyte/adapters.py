"""The adapters that a loaded model may answer with, by name."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.convert.lora import read_adapter
from halfbyte.errors import InvalidArgumentError

#: What a request says: names with strengths, one name, or nothing.
LoraChoice = str | Mapping[str, float]


class Adapters:
    """Loaded adapters of one model. Thread-safe."""

    def __init__(self, model: Any, metadata: Mapping[str, Any]) -> None:
        self._model, self._metadata = model, metadata
        self._loaded: dict[str, Any] = {}
        self._sets: dict[tuple[tuple[str, float], ...], Any] = {}
        self._lock = threading.Lock()
        #: What requests that choose none run with.
        self.default: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        """The names that requests may use."""
        return list(self._loaded)

    def load(self, path: str | Path, name: str | None = None) -> str:
        """Reads a PEFT folder or a GGUF adapter under a name (its own); returns the name. One of that name is replaced."""
        path = Path(path).expanduser()
        name = name or path.stem
        adapter = _core.Adapter(self._model, [(c.name, c.a, c.b) for c in read_adapter(path, self._metadata)])
        with self._lock:
            self._loaded[name] = adapter
            self._sets = {key: s for key, s in self._sets.items() if all(n != name for n, _ in key)}
        return name

    def chosen(self, choice: LoraChoice | None) -> Any:
        """The core's set for a request's choice; None for the plain model. Raises InvalidArgumentError."""
        wanted = self.default if choice is None else {choice: 1.0} if isinstance(choice, str) else choice
        key = tuple((str(name), float(strength)) for name, strength in wanted.items() if strength != 0)
        if not key:
            return None
        with self._lock:
            for name, _ in key:
                if name not in self._loaded:
                    known = ", ".join(self._loaded) or "none"
                    raise InvalidArgumentError(f'There is no adapter "{name}".', hint=f"Loaded are: {known}.")
            if key not in self._sets:
                self._sets[key] = _core.AdapterSet([(self._loaded[name], strength) for name, strength in key])
            return self._sets[key]


def parse_lora(items: Iterable[str]) -> dict[str, float]:
    """FILE or FILE=strength, as the command line takes them."""
    out: dict[str, float] = {}
    for item in items:
        path, equals, strength = item.rpartition("=")
        try:
            out[path if equals else item] = float(strength) if equals else 1.0
        except ValueError:
            raise InvalidArgumentError(
                f'--lora {item}: "{strength}" is no strength.', hint="Write FILE or FILE=0.5."
            ) from None
    return out
