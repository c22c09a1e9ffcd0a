"""Experts: checkpoints hold them one by one, or gate and up as one tensor; GGUF holds a stack for each matrix.

Between the two stand plain names: `<layer>.experts.gate_proj.weight` is the stack (experts, rows, columns).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from halfbyte.convert.family import Family
from halfbyte.convert.tensors import Array, Planned, Weight, is_plain
from halfbyte.errors import FormatError

_ONE = re.compile(r"^(.*\.experts)\.(\d+)\.(\w+\.(?:weight|bias))$")
_PLAIN_FUSED = re.compile(r"^(.*\.experts)\.(gate_up_proj|down_proj)(_bias)?(?:\.(weight|bias))?$")
_GRANITE = re.compile(r"^(.*\.(?:block_sparse_moe|shared_mlp))\.(input|output)_linear\.weight$")
_CHOICE_BIAS = ".e_score_correction_bias"
# Architectures whose stacks of halves transformers writes as (columns, rows).
_TURNED = ("qwen3vlmoe",)
# Numbers beside matrices, as Gemma 4 calls them, and as parts of those.
_SCALES = {".router.scale": ".router.proj.scale", ".router.per_expert_scale": ".experts.down_proj.scale"}
_MAX_EXPERTS = 4096


def as_stacks(weights: Mapping[str, Weight], family: Family, width: int) -> dict[str, Weight]:
    """A checkpoint's weights with all experts under their plain names; width: of the model (hidden_size). Raises
    FormatError for experts that are missing or differ."""
    out: dict[str, Weight] = {}
    alone: dict[str, dict[int, Weight]] = {}
    for name, weight in weights.items():
        if match := _ONE.match(name):
            alone.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = weight
        elif match := _PLAIN_FUSED.match(name):
            kind = match[4] or ("bias" if match[3] else "weight")
            is_gate_up = match[2] == "gate_up_proj"
            is_turned = kind == "weight" and is_plain(weight.format) and _is_turned(weight, is_gate_up, family, width)
            out |= _split(match[1], is_gate_up, kind, weight, family, is_turned=is_turned)
        elif match := _GRANITE.match(name):
            prefix = match[1].replace("block_sparse_moe", "block_sparse_moe.experts")
            out |= _split(prefix, match[2] == "input", "weight", weight, family)
        elif name.endswith((".sinks", ".layer_scalar")):
            out[f"{name}.weight"] = weight
        elif found := next((theirs for theirs in _SCALES if name.endswith(theirs)), None):
            out[name.removesuffix(found) + _SCALES[found]] = weight
        elif name.endswith(_CHOICE_BIAS):
            n = weight.shape[-1]
            out[f"{name.removesuffix('_bias')}.bias"] = weight.changed((n,), lambda rows: rows.reshape(-1))
        elif name.endswith(".shared_expert_gate.weight"):
            out[name] = weight.changed((weight.shape[-1],), lambda rows: rows.reshape(-1))
        else:
            out[name] = weight
    return out | {name: stack(name, found) for name, found in alone.items()}


def _is_turned(weight: Weight, is_gate_up: bool, family: Family, width: int) -> bool:
    """Whether a stack is (experts, columns, rows): told by the model's width, else (square ones) by the family."""
    columns_at = -1 if is_gate_up else -2  # where the width stands unless turned
    if len(weight.shape) == 3 and weight.shape[-1] != weight.shape[-2]:
        return weight.shape[columns_at] != width
    return family.experts == "turns" or family.arch in _TURNED


def stack(name: str, found: dict[int, Weight]) -> Weight:
    """Matrices that are numbered from 0 as one of their axes. Raises FormatError for any that is missing or differs."""
    first = next(iter(found.values()))
    if sorted(found) != list(range(len(found))) or len(found) > _MAX_EXPERTS:
        raise FormatError(f"{name}: matrices {sorted(found)[:8]}... are not numbered from 0 to {len(found) - 1}.")
    experts = [found[i] for i in range(len(found))]
    if any(e.shape != first.shape or e.format != first.format for e in experts):
        raise FormatError(f"{name}: its matrices differ in shape or type.")
    parts = tuple(part for e in experts for part in e.parts)
    shape = (len(experts), *first.shape)
    if is_plain(first.format):
        return Weight(first.format, shape, lambda: np.stack([e.read() for e in experts]), first.note, parts)
    return Weight(first.format, shape, lambda: np.concatenate([e.read() for e in experts]), first.note, parts)


def _split(
    prefix: str, is_gate_up: bool, kind: str, weight: Weight, family: Family, *, is_turned: bool = False
) -> dict[str, Weight]:
    """A fused tensor (..., rows, columns), or (..., columns, rows) where it is turned, as plain ones."""
    shape = (*weight.shape[:-2], weight.shape[-1], weight.shape[-2]) if is_turned else weight.shape
    axis = len(shape) - (1 if kind == "bias" else 2)

    def rows(array: Array) -> Array:
        return array.swapaxes(-1, -2) if is_turned else array

    if not is_gate_up:
        return {f"{prefix}.down_proj.{kind}": weight.changed(shape, rows)}
    if axis < 0 or shape[axis] % 2:
        raise FormatError(f"{prefix}: a fused gate and up of shape {list(shape)} cannot be cut in two.")
    half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
    starts = {"gate_proj": slice(0, half[axis]), "up_proj": slice(half[axis], None)}
    if family.experts == "turns":
        starts = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}
    lead = (slice(None),) * axis
    return {
        f"{prefix}.{part}.{kind}": weight.changed(half, lambda array, taken=taken: rows(array)[(*lead, taken)])  # type: ignore[misc]
        for part, taken in starts.items()
    }


@dataclass(frozen=True)
class _Stacked:
    """A stack on its way back into a folder."""

    tensor: Planned
    prefix: str  # "model.layers.0.mlp.experts"
    part: str  # "gate_proj"
    kind: str  # "weight"


_STACK = re.compile(r"^(.*\.(?:experts|shared_mlp))\.(\w+)\.(weight|bias)$")


def as_checkpoint(tensors: list[Planned], family: Family) -> list[Planned]:
    """as_stacks() backwards, as the family's folders hold their experts."""
    stacks = {t.name: _Stacked(t, m[1], m[2], m[3]) for t in tensors if (m := _STACK.match(t.name))}
    if family.experts == "each":  # the shared one is none of them
        stacks = {name: stack for name, stack in stacks.items() if stack.prefix.endswith(".experts")}

    @lru_cache(maxsize=2)  # experts of a stack are written one after another: it is decoded once
    def made(name: str) -> Array:
        tensor = stacks[name].tensor
        return tensor.make().reshape(tensor.shape)

    out: list[Planned] = []
    for t in tensors:
        found = stacks.get(t.name)
        if found is None:
            out.append(_plain_name(t))
        elif family.experts == "each":
            out += [
                replace(t, name=f"{found.prefix}.{i}.{found.part}.{found.kind}", shape=t.shape[1:],
                        make=lambda name=t.name, i=i: made(name)[i])  # type: ignore[misc]
                for i in range(t.shape[0])
            ]  # fmt: skip
        elif found.part != "up_proj":  # what is fused comes with its gate
            up = stacks.get(f"{found.prefix}.up_proj.{found.kind}") if found.part == "gate_proj" else None
            out.append(_fused(found, up, family, made))
    return out


def _plain_name(t: Planned) -> Planned:
    if found := next((theirs for theirs, ours in _SCALES.items() if t.name.endswith(ours)), None):
        return replace(t, name=t.name.removesuffix(_SCALES[found]) + found)
    if t.name.endswith((".sinks.weight", ".layer_scalar.weight")):
        return replace(t, name=t.name.removesuffix(".weight"))
    if t.name.endswith(".e_score_correction.bias"):
        is_row = ".moe_statics." in t.name
        return replace(t, name=f"{t.name.removesuffix('.bias')}_bias", shape=(1, *t.shape) if is_row else t.shape)
    if t.name.endswith(".shared_expert_gate.weight"):
        return replace(t, shape=(1, *t.shape))
    return t


def _fused(stack: _Stacked, up: _Stacked | None, family: Family, made: Callable[[str], Array]) -> Planned:
    t = stack.tensor
    is_turned = family.experts == "turns"
    axis = len(t.shape) - (1 if stack.kind == "bias" else 2)
    shape = t.shape
    if up is not None:
        if up.tensor.shape != shape or up.tensor.format != t.format:
            raise FormatError(f"{t.name} and its up matrix differ in shape or type.", hint="Choose one with --type.")
        shape = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    if is_turned and stack.kind == "weight":
        shape = (*shape[:-2], shape[-1], shape[-2])

    def make() -> Array:
        array = made(t.name)
        if up is not None:
            both = [array, made(up.tensor.name)]
            array = np.stack(both, axis + 1) if is_turned else np.concatenate(both, axis)
            array = array.reshape(*t.shape[:axis], -1, *t.shape[axis + 1 :])
        return array.swapaxes(-1, -2) if is_turned and stack.kind == "weight" else array

    part = "gate_up_proj" if up is not None else "down_proj"
    return replace(t, name=_fused_name(stack, part, is_turned), shape=shape, make=make)


def _fused_name(stack: _Stacked, part: str, is_turned: bool) -> str:
    if is_turned or not stack.prefix.endswith(("block_sparse_moe.experts", "shared_mlp")):
        return f"{stack.prefix}.{part}" + ("_bias" if stack.kind == "bias" else "")
    linear = "input_linear" if part == "gate_up_proj" else "output_linear"
    return f"{stack.prefix.removesuffix('.experts')}.{linear}.weight"
