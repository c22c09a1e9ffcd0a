"""LoRA adapters: PEFT folders and GGUF files, as changes of the matrices that the engine knows by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfbyte import _core
from halfbyte.convert.checkpoint import read_json, read_safetensors
from halfbyte.convert.families import FAMILIES
from halfbyte.convert.family import Family
from halfbyte.convert.grouped import rows_of_three, stems_of_three
from halfbyte.convert.plan import our_name
from halfbyte.convert.quantized.blocks import floats
from halfbyte.convert.tensors import Stored
from halfbyte.convert.transforms import Heads, SplitGroups
from halfbyte.convert.unpickle import read_torch_file
from halfbyte.errors import FormatError, ModelNotFoundError, UnsupportedError

Floats = npt.NDArray[np.float32]

_PEFT = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[\w-]+)?\.weight$")
# Real ones are a few units, and some hundreds.
_MAX_SCALING, _MAX_RANK = 1e6, 1 << 20
_GGUF = re.compile(r"^(.+)\.weight\.lora_([ab])$")


@dataclass(frozen=True)
class Change:
    """w += b a, scaling included. name: of the tensor ("blk.3.attn_q"). a: (rank, columns), b: (rows, rank)."""

    name: str
    a: Floats
    b: Floats


def read_adapter(path: Path, metadata: Mapping[str, Any]) -> list[Change]:
    """An adapter's changes, for the model that the metadata describes. Raises FormatError or UnsupportedError."""
    if path.is_dir():
        return _from_peft(path, metadata)
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such adapter.", hint="Name a PEFT folder or a GGUF adapter.")
    return _from_gguf(path, metadata)


def _pairs(changes: dict[str, dict[str, Floats]], path: Path) -> list[tuple[str, Floats, Floats]]:
    out = []
    for name, found in changes.items():
        if set(found) != {"a", "b"}:
            raise FormatError(f"{path}: the change of {name} lacks its {'b' if 'a' in found else 'a'} matrix.")
        a, b = found["a"], found["b"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
            raise FormatError(
                f"{path}: the change of {name} is {list(b.shape)} x {list(a.shape)}, which is no product."
            )
        out.append((name, a, b))
    if not out:
        raise FormatError(f"{path} holds no adapter.")
    return out


def _from_gguf(path: Path, metadata: Mapping[str, Any]) -> list[Change]:
    file = _core.GgufFile(str(path))
    about = file.metadata
    if about.get("general.type") != "adapter" or about.get("adapter.type") != "lora":
        raise FormatError(f"{path} is a model, not a LoRA adapter.", hint="Load it as a model.")
    arch, wanted = about.get("general.architecture"), metadata.get("general.architecture")
    if arch != wanted:
        raise FormatError(f"{path} is an adapter for {arch} models; this one is {wanted}.")
    alpha = about.get("adapter.lora.alpha", 0)
    if not isinstance(alpha, (int, float)) or not abs(alpha) < _MAX_SCALING:
        raise FormatError(f"{path}: adapter.lora.alpha is {alpha!r}; a number was expected.")
    changes: dict[str, dict[str, Floats]] = {}
    for tensor in file.tensors:
        match = _GGUF.match(tensor.name)
        if match is None:
            raise UnsupportedError(
                f"{path}: tensor {tensor.name} is no low-rank change.", hint="Merge the adapter instead."
            )
        changes.setdefault(match[1], {})[match[2]] = file.tensor_f32(tensor.name)
    # Files say alpha; without it the change is taken as it is.
    return [
        _scaled(path, name, a, b, np.float32(alpha / a.shape[0] if alpha else 1.0))
        for name, a, b in _pairs(changes, path)
    ]


def _from_peft(folder: Path, metadata: Mapping[str, Any]) -> list[Change]:
    config = read_json(folder / "adapter_config.json")
    if not config:
        raise ModelNotFoundError(f"{folder} has no adapter_config.json.", hint="Name a PEFT adapter's folder.")
    _refuse(config, folder)
    family = _family_of(metadata)
    heads = _heads_of(metadata) if family.transforms else Heads(1, 1)
    changes: dict[str, dict[str, Floats]] = {}
    stems: dict[str, str] = {}
    for name, stored in _tensors(folder).items():
        match = _PEFT.match(name)
        if match is None:
            raise UnsupportedError(
                f"{folder}: tensor {name} is no low-rank change of a matrix.",
                hint="Adapters that hold whole layers (modules_to_save) or embeddings cannot be switched.",
            )
        stem = match[1].replace("model.language_model.", "model.").removeprefix("language_model.")
        for part, numbers in _parts(stem, match[2], floats(stored, name), family, heads):
            found = our_name(family, part)
            if found is None:
                raise FormatError(f"{folder}: {match[1]} is no part of a {family.model_types[0]} model.")
            ours, transform = found
            if match[2] == "B" and not transform.turns:
                numbers = np.ascontiguousarray(transform.apply(numbers, heads))
            changes.setdefault(ours, {})[match[2].lower()] = numbers
            stems[ours] = match[1]
    return [_scaled(folder, name, a, b, _scaling(config, stems[name])) for name, a, b in _pairs(changes, folder)]


def _parts(stem: str, which: str, numbers: Floats, family: Family, heads: Heads) -> list[tuple[str, Floats]]:
    """A matrix of a change, for each of the matrices that the changed one becomes: A is the same for all of them."""
    three = stems_of_three(stem, family)
    if not three:
        return [(stem, numbers)]
    if which == "A":
        return [(part, numbers) for part in three]
    if numbers.ndim != 2:
        raise FormatError(f"The change of {stem} is {list(numbers.shape)}, which is no product.")
    rows = rows_of_three(stem, numbers.shape[0], heads)
    split = SplitGroups().apply(numbers, heads)
    return [(part, split[taken]) for part, taken in zip(three, rows, strict=True)]


def _scaled(path: Path, name: str, a: Floats, b: Floats, scaling: np.float32) -> Change:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = b * scaling
    if not np.isfinite(a).all() or not np.isfinite(scaled).all():
        raise FormatError(f"{path}: the change of {name} holds what are no numbers.", hint="Train the adapter again.")
    return Change(name, a, scaled)


def _tensors(folder: Path) -> Mapping[str, Stored]:
    if (folder / "adapter_model.safetensors").is_file():
        return read_safetensors(folder / "adapter_model.safetensors")
    if (folder / "adapter_model.bin").is_file():
        return read_torch_file(folder / "adapter_model.bin")
    raise ModelNotFoundError(f"{folder} has neither adapter_model.safetensors nor adapter_model.bin.")


def _refuse(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    refused = {
        f'of type "{kind}"': kind != "LORA",
        "with DoRA magnitudes": config.get("use_dora") is True,
        f'that trains biases ("{config.get("bias")}")': config.get("bias", "none") != "none",
        "that replaces whole modules": bool(config.get("modules_to_save")),
    }
    for what, is_refused in refused.items():
        if is_refused:
            raise UnsupportedError(
                f"{folder} is an adapter {what}, which is not supported.", hint="Plain LoRA adapters are."
            )


def _scaling(config: Mapping[str, Any], stem: str) -> np.float32:
    """alpha / rank (or its square root), where patterns may give single layers their own."""
    rank, alpha = (_for_layer(config, key, stem) for key in ("r", "lora_alpha"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise FormatError(f"adapter_config.json: r is {rank!r} and lora_alpha {alpha!r}; numbers were expected.")
    if rank > _MAX_RANK or not abs(alpha) < _MAX_SCALING * rank:
        raise FormatError(f"adapter_config.json: lora_alpha {alpha!r} over r {rank} is no strength of an adapter.")
    return np.float32(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _for_layer(config: Mapping[str, Any], key: str, stem: str) -> Any:
    field = "rank_pattern" if key == "r" else "alpha_pattern"
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        raise FormatError(f"adapter_config.json: {field} is no object.")
    for pattern, value in patterns.items():
        # As PEFT reads them: a pattern is the end of a layer's name.
        if _compiled(pattern, field).match(stem):
            return value
    return config.get(key)


def _compiled(pattern: str, field: str) -> re.Pattern[str]:
    """A pattern, if it is certain to end soon: repetitions of repetitions, and many behind each other, need not."""
    try:
        if len(pattern) > 1000 or re.search(r"\)[*+?{]", pattern) or len(re.findall(r"(?<!\\)[*+{]", pattern)) > 4:
            raise re.error("it repeats too much")
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise FormatError(f'adapter_config.json: {field} has the pattern "{pattern[:80]}": {error}.') from None


def _family_of(metadata: Mapping[str, Any]) -> Family:
    arch = str(metadata.get("general.architecture"))
    names = [f for f in FAMILIES if f.arch == arch]
    if not names:
        raise UnsupportedError(f'PEFT adapters of architecture "{arch}" are not supported.')
    return names[0]


def _heads_of(metadata: Mapping[str, Any]) -> Heads:
    arch = metadata["general.architecture"]
    heads, kv_heads = (metadata.get(f"{arch}.attention.head_count{kind}") for kind in ("", "_kv"))
    kv_heads = heads if kv_heads is None else kv_heads
    if not isinstance(heads, int) or not isinstance(kv_heads, int):
        raise UnsupportedError("Adapters for models whose layers differ in heads are not supported.")
    return Heads(heads, kv_heads)
