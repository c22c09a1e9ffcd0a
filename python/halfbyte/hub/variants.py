"""Which files of a repository make one model: the parts of split GGUF files, and the quantization a name tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import ModelNotFoundError

# What is taken when nobody says: good for its size first.
_PREFERRED = ("Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "Q4_1", "MXFP4", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0")
_QUANT = re.compile(
    r"(?i)(?:^|[-._/])((?:I?Q|TQ)[1-9]_[A-Z0-9]+(?:_[A-Z]{1,3})?|MXFP4(?:_MOE)?|BF16|F16|F32)(?=[-._/]|$)"
)
_SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")
# Files beside a model that are no language model.
_NO_MODEL = ("mmproj", "imatrix")


@dataclass(frozen=True)
class Variant:
    """One model of a repository: its quantization as the name tells ("" where it does not) and its files in order."""

    quant: str
    files: tuple[str, ...]


def variants(names: Iterable[str]) -> list[Variant]:
    """The GGUF models among file names. A split file with missing parts is left out."""
    parts: dict[str, dict[int, str]] = {}
    wanted: dict[str, int] = {}
    for name in names:
        if not name.endswith(".gguf") or any(word in name.lower() for word in _NO_MODEL):
            continue
        split = _SPLIT.match(name)
        stem, at, n = (split[1], int(split[2]), int(split[3])) if split else (name.removesuffix(".gguf"), 1, 1)
        parts.setdefault(f"{stem}/{n}", {})[at] = name
        wanted[f"{stem}/{n}"] = n
    found = []
    for key, files in parts.items():
        if sorted(files) == list(range(1, wanted[key] + 1)):
            found.append(Variant(quant_of(key.rpartition("/")[0]), tuple(files[i] for i in sorted(files))))
    return sorted(found, key=lambda v: v.files)


def choose(found: list[Variant], wanted: str, where: str) -> Variant:
    """The variant of a quantization or file name; the preferred one when `wanted` is "". Raises ModelNotFoundError."""
    for variant in found:
        if wanted and wanted in (variant.files[0], Path(variant.files[0]).name):
            return variant
    for quant in [wanted] if wanted else _PREFERRED:
        for variant in found:
            if variant.quant.lower() == quant.lower():
                return variant
    if wanted:
        for variant in found:
            if wanted.lower() in variant.files[0].lower():
                return variant
        known = ", ".join(v.quant or v.files[0] for v in found) or "none"
        raise ModelNotFoundError(f"{where} has no file for {wanted}.", hint=f"It has {known}.")
    if not found:
        raise ModelNotFoundError(
            f"{where} has no GGUF file.", hint="Look for a repository of the same model whose name ends in -GGUF."
        )
    return found[0]


def quant_of(name: str) -> str:
    """The quantization that a file's name tells, in capitals; ""."""
    found = _QUANT.findall(name.removesuffix(".gguf"))
    return found[-1].upper() if found else ""


def all_parts(path: Path) -> list[Path]:
    """A GGUF file and, when its name says that it was split, all its parts in order."""
    split = _SPLIT.match(path.name)
    if not split:
        return [path]
    n = int(split[3])
    return [path.with_name(f"{split[1]}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]
