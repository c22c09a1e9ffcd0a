"""halfbyte: an inference engine for quantized language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte._core import __version__
    from halfbyte.errors import HalfbyteError
    from halfbyte.llm import LLM
    from halfbyte.outputs import Logprob, Output, Piece, Timing, Usage
    from halfbyte.params import SamplingParams

__all__ = ["LLM", "HalfbyteError", "Logprob", "Output", "Piece", "SamplingParams", "Timing", "Usage", "__version__"]

# Imported when they are first named: the command's Ctrl-C is looked after before half a second of imports.
_HOMES = {
    "__version__": "_core",
    "HalfbyteError": "errors",
    "LLM": "llm",
    "SamplingParams": "params",
    **dict.fromkeys(("Logprob", "Output", "Piece", "Timing", "Usage"), "outputs"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'halfbyte' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"halfbyte.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
