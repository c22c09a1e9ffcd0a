"""What an LLM is opened with: checked arguments, weights and tokenizer from files, its makers' recommended defaults."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.chat import ChatTemplate
from halfbyte.errors import FormatError, InvalidArgumentError
from halfbyte.params import SamplingParams
from halfbyte.tokenizer import Tokenizer


def open_weights(path: Path, quant: str | None, **options: Any) -> tuple[Any, Tokenizer]:
    """The packed weights and the tokenizer of a GGUF file or a model folder."""
    if path.is_dir():
        from halfbyte.convert import load_folder

        return load_folder(path, type_name=quant, **options), Tokenizer.from_hf(path)
    if quant is not None:
        raise InvalidArgumentError(
            f"quant is {quant}, but {path} is a GGUF file.",
            hint="Its weights run as they are stored; see halfbyte quantize.",
        )
    with ThreadPoolExecutor(1) as beside:  # a large vocabulary takes as long as a small model's weights
        tokenizer = beside.submit(Tokenizer.from_gguf, path)
        weights = _core.Model.load(str(path), **options)
        return weights, tokenizer.result()


def open_draft(model: str | Path, **options: Any) -> tuple[Any, Tokenizer]:
    """The weights and the tokenizer of a model that guesses ahead for another one."""
    from halfbyte.hub import open_model

    return open_weights(open_model(str(model)).path, None, **options)


def check_draft(model: str | Path, its: Tokenizer, tokenizer: Tokenizer) -> None:
    """Raises InvalidArgumentError where a draft model's tokenizer is another one than the model's."""
    if its.output_bytes != tokenizer.output_bytes:
        raise InvalidArgumentError(
            f"The draft model {model} has another vocabulary than the model.",
            hint="Choose a smaller model of the same family.",
        )


def tool_template(wanted: str | None, metadata: Mapping[str, Any]) -> ChatTemplate | None:
    """The template that some models bring for chats with tools alone."""
    if wanted is not None or "tokenizer.chat_template.tool_use" not in metadata:
        return None
    return ChatTemplate.from_metadata(metadata, "tool_use")


def default_params(metadata: Mapping[str, Any], config: Path) -> SamplingParams:
    """Defaults the model's makers recommend (general.sampling.*, or generation_config.json beside the file), else ours."""
    if config.is_file():
        try:
            return SamplingParams.from_generation_config(json.loads(config.read_text(encoding="utf-8")))
        except (ValueError, AttributeError, RecursionError):
            raise FormatError(f"{config} is no JSON object.") from None
    names = {
        "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repeat_penalty",
    }  # fmt: skip
    keys = {f"general.sampling.{theirs}": ours for theirs, ours in names.items()}
    return SamplingParams(**{ours: metadata[key] for key, ours in keys.items() if key in metadata})


# Arguments ------------------------------------------------------------------------------------------------------------


def refuse_unknown(unknown: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises InvalidArgumentError, with a suggestion, when there is an argument of no known name."""
    for name in unknown:
        names = [p for p in known if p not in ("self", "unknown")]
        close = difflib.get_close_matches(name, names, n=1)
        raise InvalidArgumentError(
            f"LLM() has no argument {name}.",
            hint=f"Did you mean {close[0]}?" if close else f"Known are {', '.join(names)}.",
        )


def checked_experts(cpu_moe: bool | int) -> int:
    """How many layers, from the first on, keep their experts on the CPU."""
    if not isinstance(cpu_moe, int) or cpu_moe < 0:
        raise InvalidArgumentError(f"cpu_moe is {cpu_moe}; True, False, or a count of layers was expected.")
    all_layers = 1 << 31
    return all_layers if cpu_moe is True else int(cpu_moe)


def checked_layers(n_gpu_layers: int | str) -> int:
    """The count of layers on the GPU; -1 for as many as fit."""
    layers = -1 if n_gpu_layers == "auto" else n_gpu_layers
    if not isinstance(layers, int) or layers < -1:
        raise InvalidArgumentError(f'n_gpu_layers is {n_gpu_layers}; a count, or "auto" (-1), was expected.')
    return layers


def check_fixed(deterministic: str, seed: int | None) -> None:
    """Refuses numerics that there are not, and seeds that are none."""
    if deterministic != "strict":
        raise InvalidArgumentError(
            f'deterministic is {deterministic!r}; "strict" is the only numerics there is.', hint="Leave it out."
        )
    if seed is not None and not 0 <= seed < 1 << 64:
        raise InvalidArgumentError(f"seed is {seed}; 0 to 2**64 - 1, or None, was expected.")


def strengths_of(lora: Mapping[str, float] | Sequence[str | Path] | None) -> dict[str, float]:
    """Adapters' paths with their strengths."""
    if isinstance(lora, Mapping):
        return {str(path): float(strength) for path, strength in lora.items()}
    return {str(path): 1.0 for path in lora or ()}
