"""What a quantized file will hold: one format a tensor, by a mix and the user's exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError, UnsupportedError
from halfbyte.quantize.mixes import MIXES, Facts, Place, fitting, format_for, is_quantizable, role_of

_FORMATS = {f["name"]: f for f in _core.formats()}
BLOCK_WEIGHTS: dict[str, int] = {name: f["block_weights"] for name, f in _FORMATS.items()}


@dataclass(frozen=True)
class Choice:
    """A tensor and the format it will have. shape: contiguous axis first."""

    name: str
    shape: tuple[int, ...]
    source_format: str
    format: str
    quantizable: bool
    wanted: str = ""  # the format that the mix asks for; `format` where the rows are whole blocks of it

    @property
    def note(self) -> str:
        """What could not be as asked; empty where all is well."""
        if not self.wanted or self.wanted == self.format:
            return ""
        return f"rows of {self.shape[0]} are no whole blocks of {self.wanted}: they become {self.format}"

    @property
    def n_weights(self) -> int:
        """Numbers in the tensor."""
        n = 1
        for axis in self.shape:
            n *= axis
        return n

    @property
    def n_bytes(self) -> int:
        """Bytes that the tensor will take."""
        return bytes_of(self.format, self.n_weights)


@dataclass(frozen=True)
class Plan:
    """All tensors in file order, and the file type that readers will show."""

    choices: list[Choice]
    file_type: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(c.n_bytes for c in self.choices)

    @property
    def bits_per_weight(self) -> float:
        """Bits for each number of the model, all tensors counted."""
        return 8 * self.n_bytes / max(1, sum(c.n_weights for c in self.choices))


def bytes_of(format_name: str, n_weights: int) -> int:
    """Bytes of n weights in a format."""
    f = _FORMATS[format_name]
    return int(n_weights // f["block_weights"] * f["block_bytes"])


def file_type_of(tensors: Iterable[tuple[str, int]]) -> int:
    """general.file_type of (format, weights) pairs: of the format that most weights have, as readers guess it."""
    counts: dict[str, int] = {}
    for name, n_weights in tensors:
        counts[name] = counts.get(name, 0) + n_weights
    most = max(counts, key=lambda name: counts[name])
    return next((m.file_type for m in MIXES.values() if m.base == most), MIXES["F16"].file_type)


def format_named(name: str) -> str:
    """A format as users write it ("q4_k") -> its name. Raises InvalidArgumentError."""
    found = name.upper()
    if found not in _FORMATS or not _core.can_quantize(found):
        known = ", ".join(n for n in _FORMATS if _core.can_quantize(n))
        raise InvalidArgumentError(f'There is no type "{name}" to quantize to.', hint=f"Known are {known}.")
    return found


def mix_named(name: str) -> str:
    """A mix as users write it ("q4_k_m") -> its name. Raises InvalidArgumentError."""
    found = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}.get(name.upper(), name.upper())
    if found not in MIXES:
        raise InvalidArgumentError(f'There is no file type "{name}".', hint=f"Known are {', '.join(MIXES)}.")
    return found


def overrides_of(texts: Iterable[str]) -> list[tuple[re.Pattern[str], str]]:
    """PATTERN=TYPE texts -> what plan_quantization() takes. Raises InvalidArgumentError."""
    out = []
    for text in texts:
        pattern, separator, type_name = text.rpartition("=")
        if not separator or not pattern:
            raise InvalidArgumentError(f'"{text}": PATTERN=TYPE was expected, such as "ffn_down=q6_k".')
        try:
            out.append((re.compile(pattern), format_named(type_name)))
        except re.error as error:
            raise InvalidArgumentError(f'"{pattern}" is no regular expression: {error}.') from None
    return out


def facts_of(metadata: Mapping[str, Any], has_importance: bool) -> Facts:
    """What the mixes' rules look at, from a file's metadata."""
    arch = metadata.get("general.architecture", "")

    def number(key: str) -> int:
        value = metadata.get(f"{arch}.{key}", 0)
        return max([int(v) for v in value], default=0) if isinstance(value, list) else int(value)

    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    return Facts(
        n_layers=number("block_count"),
        heads_per_kv_head=heads // kv_heads if kv_heads else 1,
        n_experts=number("expert_count"),
        has_importance=has_importance,
    )


def plan_quantization(
    source: Any,
    mix: str,
    *,
    overrides: Sequence[tuple[re.Pattern[str], str]] = (),
    head: str | None = None,
    embedding: str | None = None,
    pure: bool = False,
    has_importance: bool = False,
) -> Plan:
    """Chooses a format for every tensor of a GgufFile, or of what has metadata and tensors like one.

    overrides: (pattern searched in the name, format), the first match counts. head, embedding: formats of the output
    matrix (also of the embedding that serves as one) and of the token embedding. pure: no exceptions of the mix.
    """
    tensors = source.tensors
    facts = facts_of(source.metadata, has_importance)
    tied = all(t.name != "output.weight" for t in tensors)
    layers: dict[str, list[int]] = {}
    for t in tensors:
        layers.setdefault(role_of(t.name), []).append(_layer_of(t.name))
    # llama.cpp counts all value-like matrices together, and everything else by layer.
    values = sorted(layers.get("v", []) + layers.get("qkv", []))
    choices = []
    for t in tensors:
        role, shape = role_of(t.name), tuple(t.shape)
        quantizable = is_quantizable(t.name, shape)
        chosen, wanted = t.format, None
        if quantizable:
            is_head = role == "head" or (tied and t.name == "token_embd.weight")
            layer = _layer_of(t.name)
            place = Place(layer, facts.n_layers, facts)
            if role in ("v", "qkv"):
                place = Place(values.index(layer), len(values), facts)
            wanted = next((f for pattern, f in overrides if pattern.search(t.name)), None)
            if embedding and role == "embedding":
                wanted = embedding
            elif head and is_head:
                wanted = head
            if wanted is None and pure:
                wanted = MIXES[mix].base
            if wanted is None:
                stacked = len(shape) > 2 and shape[2] > 1
                wanted = format_for(mix, "head" if is_head else role, place, stacked=stacked)
                if (
                    is_head
                    and MIXES[mix].base not in ("F32", "F16", "BF16")
                    and shape[0] % BLOCK_WEIGHTS[MIXES[mix].base]
                ):
                    wanted = "Q8_0"
            chosen = fitting(wanted, shape[0], BLOCK_WEIGHTS)
        choices.append(Choice(t.name, shape, t.format, chosen, quantizable, wanted or chosen))
    return Plan(choices, MIXES[mix].file_type)


def refuse_requantizing(plan: Plan) -> None:
    """Raises UnsupportedError when the plan would quantize what is quantized already: errors add up."""
    for c in plan.choices:
        if c.format != c.source_format and BLOCK_WEIGHTS[c.source_format] > 1:
            raise UnsupportedError(
                f"{c.name} is quantized already ({c.source_format}); as {c.format} it would lose twice.",
                hint="Start from the F16, BF16 or F32 file, or allow it with --allow-requantize.",
            )


def _layer_of(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found.group(1)) if found else 0
