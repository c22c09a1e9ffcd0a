"""A type for each tensor so that the file fits a size and loses least, by loss measured on the tensor's own weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError
from halfbyte.quantize.importance import Importance
from halfbyte.quantize.mixes import role_of
from halfbyte.quantize.plan import BLOCK_WEIGHTS, Choice, Plan, bytes_of, file_type_of, plan_quantization
from halfbyte.quantize.write import weights_for

#: What a tensor may become; formats of 32 weights a block serve rows that others do not divide.
CANDIDATES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0",
              "Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "BF16")  # fmt: skip

#: How much a relative error of a tensor's output costs, by role. An error in values and in what is added to the residual
#: stream reaches all later layers; one in queries and keys only shifts attention.
_WEIGHTS = {"head": 1.5, "embedding": 0.5, "v": 2.0, "qkv": 1.5, "o": 1.0, "down": 1.0, "q": 0.5, "k": 0.5}

_ROWS_MEASURED = 128
#: Bytes that quantizing may add to the metadata.
_ADDED_METADATA = 4096
_SIZE = re.compile(r"([\d.]+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


@dataclass(frozen=True)
class _Option:
    format: str
    n_bytes: int
    cost: float


def size_of(text: str) -> int:
    """ "4.2GiB", "900MB", "123456" -> bytes. Raises InvalidArgumentError."""
    found = _SIZE.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        base = 1024 if found.group(3) else 1000
        return int(float(found.group(1)) * base ** " kmgt".index(found.group(2).lower() or " "))
    except (ValueError, OverflowError):
        raise InvalidArgumentError(f'"{text}" is no size.', hint="Write 4.2GiB, 900MB or a number of bytes.") from None


def bytes_at(source: Any, bits_per_weight: float) -> int:
    """Bytes of a GgufFile's tensors at so many bits for each number. Raises InvalidArgumentError."""
    if not 0 < bits_per_weight < math.inf:
        raise InvalidArgumentError(f"{bits_per_weight} bits per weight are impossible.", hint="4.25 is a usual number.")
    return int(bits_per_weight * sum(math.prod(t.shape) for t in source.tensors) / 8)


def room_for_tensors(source: Any, file_bytes: int) -> int:
    """What a file of file_bytes leaves to the tensors beside a GgufFile's metadata; may be negative."""
    header = sum(Path(p).stat().st_size for p in source.paths) - sum(t.n_bytes for t in source.tensors)
    alignment = int(source.metadata.get("general.alignment", 32))
    return int(file_bytes - header - alignment * len(source.tensors) - _ADDED_METADATA)


def fit_to_size(
    source: Any,
    target_bytes: int,
    *,
    importance: Importance | None = None,
    overrides: Sequence[tuple[re.Pattern[str], str]] = (),
    head: str | None = None,
    embedding: str | None = None,
    n_threads: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Plan:
    """The plan of least expected loss whose tensors take at most target_bytes.

    Every tensor starts with its smallest format; the change that removes most loss for a byte is made until none fits.
    Raises InvalidArgumentError when even the smallest formats are too large.
    """
    plan = plan_quantization(source, "Q8_0", overrides=overrides, head=head, embedding=embedding)
    fixed = {
        c.name
        for c in plan.choices
        if not c.quantizable
        or any(p.search(c.name) for p, _ in overrides)
        or (embedding and role_of(c.name) == "embedding")
        or (head and role_of(c.name) == "head")
    }
    free = [c for c in plan.choices if c.name not in fixed]
    tied = all(c.name != "output.weight" for c in plan.choices)
    ladders = []
    for done, choice in enumerate(free):
        if progress is not None:
            progress(done, len(free))
        is_head = role_of(choice.name) == "head" or (tied and choice.name == "token_embd.weight")
        weight = _WEIGHTS.get("head" if is_head else role_of(choice.name), 1.0)
        ladders.append(_ladder(source, choice, importance, weight, n_threads))
    chosen = _spend(ladders, target_bytes - sum(c.n_bytes for c in plan.choices if c.name in fixed))
    found = {c.name: replace(c, format=o.format, wanted=o.format) for c, o in zip(free, chosen, strict=True)}
    choices = [found.get(c.name, c) for c in plan.choices]
    return Plan(choices, file_type_of((c.format, c.n_weights) for c in choices))


def _ladder(source: Any, choice: Choice, importance: Importance | None, weight: float, n_threads: int) -> list[_Option]:
    """The tensor's useful formats, smallest first: each step costs more bytes a bit of loss than the one before."""
    data = source.tensor_data(choice.name)
    weights = weights_for(choice, importance)
    options = []
    for name in dict.fromkeys((*CANDIDATES, choice.source_format)):
        if choice.shape[0] % BLOCK_WEIGHTS[name] or not _core.can_quantize(name):
            continue
        if importance is None and re.match("IQ[12]_|IQ3_XXS", name):
            continue  # what these lose without an importance matrix is more than their error says
        error, energy = 0.0, 1.0
        if name != choice.source_format:
            error, energy = _core.measure_loss(
                data,
                choice.source_format,
                choice.shape[0],
                name,
                *weights,
                max_rows=_ROWS_MEASURED,
                n_threads=n_threads,
            )
        options.append(_Option(name, bytes_of(name, choice.n_weights), weight * error / energy if energy > 0 else 0.0))
    return _lower_hull(options)


def _lower_hull(options: list[_Option]) -> list[_Option]:
    """Options on the lower convex hull of cost over bytes."""
    hull: list[_Option] = []
    for option in sorted(options, key=lambda o: (o.n_bytes, o.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) >= 2 and _rate(hull[-2], hull[-1]) <= _rate(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _rate(before: _Option, after: _Option) -> float:
    return (before.cost - after.cost) / max(1, after.n_bytes - before.n_bytes)


def _spend(ladders: list[list[_Option]], budget: int) -> list[_Option]:
    steps = [0] * len(ladders)
    left = budget - sum(ladder[0].n_bytes for ladder in ladders)
    if left < 0:
        raise InvalidArgumentError(
            f"The smallest possible file takes {-left} bytes more than the target.",
            hint="Raise the target, or give an importance matrix: it allows smaller types.",
        )
    # On a convex hull the best rate first is optimal up to the last step that fits.
    moves = [(_rate(a, b), i, k) for i, ladder in enumerate(ladders) for k, (a, b) in enumerate(pairwise(ladder))]
    for _, i, k in sorted(moves, key=lambda m: (-m[0], m[1], m[2])):
        grow = ladders[i][k + 1].n_bytes - ladders[i][k].n_bytes
        if steps[i] == k and grow <= left:
            steps[i], left = k + 1, left - grow
    return [ladder[step] for ladder, step in zip(ladders, steps, strict=True)]
