"""The parameters of Modelfiles and of Ollama's `options`, and what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from halfbyte.errors import InvalidArgumentError

# Name -> its type, and the field of SamplingParams. Without a field: said to the loader (num_ctx), or of no meaning here.
PARAMETERS: dict[str, tuple[type, str]] = {
    "seed": (int, "seed"),
    "num_predict": (int, "max_tokens"),
    "num_keep": (int, "n_keep"),
    "temperature": (float, "temperature"),
    "top_k": (int, "top_k"),
    "top_p": (float, "top_p"),
    "min_p": (float, "min_p"),
    "typical_p": (float, "typical_p"),
    "repeat_last_n": (int, "repeat_last_n"),
    "repeat_penalty": (float, "repeat_penalty"),
    "presence_penalty": (float, "presence_penalty"),
    "frequency_penalty": (float, "frequency_penalty"),
    "mirostat": (int, "mirostat"),
    "mirostat_tau": (float, "mirostat_tau"),
    "mirostat_eta": (float, "mirostat_eta"),
    "stop": (list, "stop"),
    "top_n_sigma": (float, "top_n_sigma"),
    "xtc_probability": (float, "xtc_probability"),
    "xtc_threshold": (float, "xtc_threshold"),
    "dry_multiplier": (float, "dry_multiplier"),
    "dry_base": (float, "dry_base"),
    "dry_allowed_length": (int, "dry_allowed_length"),
    "dry_penalty_last_n": (int, "dry_penalty_last_n"),
    "num_ctx": (int, ""),
    "num_batch": (int, ""),
    "num_thread": (int, ""),
    "num_gpu": (int, ""),
    "num_gqa": (int, ""),
    "main_gpu": (int, ""),
    "draft_num_predict": (int, ""),
    "tfs_z": (float, ""),
    "numa": (bool, ""),
    "low_vram": (bool, ""),
    "f16_kv": (bool, ""),
    "logits_all": (bool, ""),
    "vocab_only": (bool, ""),
    "use_mmap": (bool, ""),
    "use_mlock": (bool, ""),
    "embedding_only": (bool, ""),
    "penalize_newline": (bool, ""),
}


def checked_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with values of their types; None values are left out. Raises InvalidArgumentError that names one."""
    out = {}
    for name, value in parameters.items():
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, PARAMETERS, n=1)
            raise InvalidArgumentError(
                f"There is no parameter {name[:80]}.",
                hint=f"Did you mean {close[0]}?" if close else f"Known are {', '.join(PARAMETERS)}.",
            )
        if value is not None:
            out[name] = _typed(name, value, PARAMETERS[name][0])
    return out


def sampling_overrides(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Checked parameters under the names of SamplingParams; the others are left out."""
    out = {field: parameters[name] for name, (_, field) in PARAMETERS.items() if field and name in parameters}
    if "max_tokens" in out and out["max_tokens"] < 0:
        out["max_tokens"] = None  # -1: no limit; -2: until the context is full
    if "seed" in out and out["seed"] < 0:
        out["seed"] = None
    return out


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is list:
        values = [value] if isinstance(value, str) else value
        if isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values):
            return list(values)
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
            return value.lower() in ("true", "1")
    elif not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            number = kind(value)
            if abs(number) < 1 << 64 and (kind is float or isinstance(value, str) or number == value):
                return number
        except (ValueError, OverflowError):
            pass
    words = {int: "a whole number", float: "a number", bool: "true or false", list: "a text or a list of texts"}
    raise InvalidArgumentError(f"{name} is {str(value)[:80]!r}; {words[kind]} was expected.")
