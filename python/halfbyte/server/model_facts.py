"""What is told of a model on disk: size, family, parameters, quantization, abilities. Headers are read once a file."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.errors import HalfbyteError
from halfbyte.hub import Card, ModelFiles, find_stored
from halfbyte.hub.variants import all_parts, quant_of
from halfbyte.server.models import ModelPool
from halfbyte.server.pool import CatalogPool

# Longer lists are not kept.
_LONG = 64


@dataclass(frozen=True)
class _Header:
    architecture: str
    n_parameters: int
    main_format: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """A model by its name, its file (or folder) and its card. modified: Unix seconds."""

    name: str
    path: Path
    card: Card
    n_bytes: int
    modified: float
    digest: str
    adapters: tuple[Path, ...] = ()

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's metadata, long lists (vocabularies) as None; empty for a folder of safetensors files."""
        return self._header().metadata

    def whole_metadata(self) -> dict[str, Any]:
        """The file's metadata with every list."""
        return {} if self.path.is_dir() else dict(_core.GgufFile(str(self.path)).metadata)

    @property
    def n_parameters(self) -> int:
        """How many weights there are."""
        return self._header().n_parameters

    @property
    def details(self) -> dict[str, Any]:
        """The object of that name in Ollama's answers."""
        header = self._header()
        return {
            "parent_model": self.card.source,
            "format": "safetensors" if self.path.is_dir() else "gguf",
            "family": header.architecture,
            "families": [header.architecture],
            "parameter_size": _human_count(header.n_parameters),
            "quantization_level": quant_of(self.path.name) or header.main_format,
        }

    @property
    def capabilities(self) -> list[str]:
        """What it can be asked for."""
        metadata = self.metadata
        template = self.card.template or str(metadata.get("tokenizer.chat_template", ""))
        found = ["completion"]
        if "tools" in template or ".Tools" in template:
            found.append("tools")
        if ".Suffix" in template or "tokenizer.ggml.fim_pre_token_id" in metadata:
            found.append("insert")
        if "enable_thinking" in template or ".Think" in template or "<think>" in template:
            found.append("thinking")
        return found

    def _header(self) -> _Header:
        if self.path.is_dir():
            return _Header("unknown", 0, "unknown", {})
        return _read_header(self.path, self.n_bytes, self.modified)


def facts_of(name: str, files: ModelFiles) -> Facts:
    """Facts of files. Raises OSError when they are gone."""
    path, stored = files.path, find_stored(name)
    parts = list(path.iterdir()) if path.is_dir() else all_parts(path)
    info = [part.stat() for part in parts]
    n_bytes, modified = sum(i.st_size for i in info), info[0].st_mtime
    digest = _digest(path, n_bytes, modified)
    if stored is not None and stored.path == path:
        digest, modified = stored.digest, stored.modified
    return Facts(name, path, files.card, n_bytes, modified, digest, files.adapters)


def known_models(pool: ModelPool) -> list[Facts]:
    """The models of a pool whose files are here, loaded or not. Damaged files are left out."""
    places = {model.name: ModelFiles(model.llm.path, model.llm.card) for model in pool.loaded()}
    for name, entry in pool.catalog.entries().items() if isinstance(pool, CatalogPool) else ():
        files = entry.here()
        if files is not None:
            places[name] = files
    out = []
    for name, files in places.items():
        try:
            facts = facts_of(name, files)
            _ = facts.details
        except (OSError, HalfbyteError):
            continue
        out.append(facts)
    return sorted(out, key=lambda f: -f.modified)


@lru_cache(maxsize=256)
def _read_header(path: Path, n_bytes: int, modified: float) -> _Header:
    """n_bytes and modified are there to tell a file from one that replaced it."""
    file = _core.GgufFile(str(path))
    formats = Counter[str]()
    for tensor in file.tensors:
        formats[tensor.format] += tensor.n_bytes
    n_parameters = sum(math.prod(tensor.shape) for tensor in file.tensors)
    metadata = {k: None if isinstance(v, list) and len(v) > _LONG else v for k, v in file.metadata.items()}
    architecture = str(metadata.get("general.architecture", "unknown"))
    main = formats.most_common(1)[0][0] if formats else "unknown"
    return _Header(architecture, n_parameters, main, metadata)


def _digest(path: Path, n_bytes: int, modified: float) -> str:
    return hashlib.sha256(f"{path}\0{n_bytes}\0{modified}".encode()).hexdigest()


def _human_count(n: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.1f}{unit}" if unit == "B" else f"{n / size:.2f}{unit}"
    return str(n)
