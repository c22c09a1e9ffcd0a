"""The model store: one folder a model, with its files and a card that says how to run it. Models appear in it whole.

A new model is put together in `.incoming/<model>`. Its card, model.json, is written last: from then on the model counts,
and whatever comes next (the old one out of the way, the new one in its place) is finished by the next process if this
one is killed. Files of other owners (the hub's cache, a user's folder) are linked, or named by their path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import platformdirs

from halfbyte.errors import FormatError, InvalidArgumentError, ModelNotFoundError
from halfbyte.hub.variants import all_parts

_CARD = "model.json"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}(:[A-Za-z0-9][A-Za-z0-9._-]*)?$")


@dataclass(frozen=True)
class Card:
    """How a model wants to be run, and where its files are: names in its folder, or absolute paths.

    template is Go or Jinja text; parameters are sampling parameters and num_ctx under Ollama's names.
    """

    model: str = ""
    source: str = ""
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, str]] = ()
    adapters: Sequence[str] = ()
    licenses: Sequence[str] = ()

    def opening(self, messages: Sequence[Any]) -> list[Mapping[str, Any]]:
        """What comes before a conversation's messages: the card's system message, unless they have one, and its own."""
        roles = [m.get("role") for m in [*self.messages, *messages] if isinstance(m, Mapping)]
        system = [{"role": "system", "content": self.system}] if self.system and "system" not in roles else []
        return [*system, *self.messages]


@dataclass(frozen=True)
class StoredModel:
    """A model in the store. path is its (first) GGUF file, or its folder of safetensors files."""

    name: str
    path: Path
    n_bytes: int
    modified: float
    card: Card

    @property
    def digest(self) -> str:
        """A name of the content: changes with the card and the file, the same for a copy."""
        facts = {**asdict(self.card), "model": self.path.name, "n_bytes": self.n_bytes}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def adapters(self) -> list[Path]:
        """Its adapters' files."""
        return [_folder_of(self.name) / name for name in self.card.adapters]


def models_folder() -> Path:
    """$HALFBYTE_MODELS, else models/ in the user's data folder."""
    wanted = os.environ.get("HALFBYTE_MODELS")
    return Path(wanted) if wanted else Path(platformdirs.user_data_dir("halfbyte", appauthor=False)) / "models"


def checked_name(name: str) -> str:
    """A model's name as the store spells it (":latest" says nothing). Raises InvalidArgumentError."""
    plain = name.removesuffix(":latest")
    if len(plain) > 120 or not _NAME.fullmatch(plain):
        raise InvalidArgumentError(
            f'"{name[:120]}" is no name for a model.',
            hint="Use letters, digits, dots, dashes and underscores, as in name, owner/name or name:tag.",
        )
    return plain


def list_stored() -> list[StoredModel]:
    """Every model in the store, by name. Models that are damaged or whose files are gone are left out."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    _finish_what_was_begun()
    found = []
    for name in sorted(unquote(p.name) for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        with suppress(FormatError):
            found.append(_read(name))
    return [model for model in found if model is not None]


def find_stored(name: str) -> StoredModel | None:
    """The stored model of that name, or None. Raises FormatError when its card is damaged."""
    plain = name.removesuffix(":latest")
    if not plain or plain[0] in "./" or len(plain) > 120 or not models_folder().is_dir():
        return None
    _finish_what_was_begun()
    return _read(plain)


def get_stored(name: str) -> StoredModel:
    """The stored model of that name. Raises ModelNotFoundError."""
    model = find_stored(name)
    if model is None:
        known = ", ".join(m.name for m in list_stored()) or "nothing"
        raise ModelNotFoundError(f'There is no model "{name}" in the store.', hint=f"It holds {known}.")
    return model


@contextmanager
def composing(name: str) -> Iterator[Path]:
    """The folder in which a model is put together, for one process at a time; what an earlier try left is there."""
    import filelock

    folder = _staging(name)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)  # the process that held the lock before may have published it
        yield folder


def publish(name: str, card: Card) -> StoredModel:
    """Makes what lies in composing(name)'s folder the model of that name; replaces an older one."""
    folder = _staging(name)
    beside = folder / f"{_CARD}.{os.getpid()}.new"
    beside.write_text(json.dumps(asdict(card), ensure_ascii=False, indent=1), encoding="utf-8")
    with _locked():
        os.replace(beside, folder / _CARD)
        _finish_all()
    return get_stored(name)


def add_stored(name: str, card: Card) -> StoredModel:
    """A model of files that lie elsewhere: card.model and card.adapters are paths. The files are linked, not copied."""
    with composing(name) as folder:
        for left in folder.iterdir():
            left.unlink()
        model = Path(card.model)
        taken = [_take(part, folder, "") for part in (all_parts(model) if model.is_file() else [model])]
        adapters = [_take(Path(a), folder, f"adapter-{i}-") for i, a in enumerate(card.adapters)]
        return publish(name, replace(card, model=taken[0], adapters=adapters))


def copy_stored(source: str, target: str) -> StoredModel:
    """A second name for a model; its files are shared. Raises ModelNotFoundError."""
    model = get_stored(source)
    return add_stored(target, card_with_paths(model))


def card_with_paths(model: StoredModel) -> Card:
    """A model's card with the full paths of its files."""
    return replace(model.card, model=str(model.path), adapters=[str(path) for path in model.adapters])


def remove_stored(name: str) -> StoredModel:
    """Deletes a model. Raises ModelNotFoundError."""
    model = get_stored(name)
    with _locked():
        _trash(_folder_of(model.name))
    return model


def prune() -> list[Path]:
    """Deletes what stopped downloads and deleted models left; returns what was deleted."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    left = list(folder.glob(".trash/*"))
    with _locked():
        _finish_all()
        left += [p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and _is_empty(p)]
        left += [p for p in folder.glob(".incoming/*") if p.is_dir() and not _is_held(p)]
        litter = [p for pattern in ("*.part", "*.part.json", "*.new", "*.lock") for p in folder.glob(f"*/{pattern}")]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        for path in litter:
            path.unlink(missing_ok=True)
    return left + litter


def _is_empty(folder: Path) -> bool:
    try:
        return _read(unquote(folder.name)) is None
    except FormatError:
        return False  # someone may want to look at it


def _is_held(folder: Path) -> bool:
    """Whether a process is composing a model there."""
    import filelock

    lock = filelock.FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


# Inside -----------------------------------------------------------------------------------------------------------


def _folder_of(name: str) -> Path:
    return models_folder() / quote(name, safe="")


def _read(name: str) -> StoredModel | None:
    folder = _folder_of(name)
    try:
        known = {f.name for f in fields(Card)}
        entries = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        card = Card(**{key: value for key, value in entries.items() if key in known})
        path = folder / card.model
    except FileNotFoundError:
        files = sorted(folder.glob("*.gguf"))  # a file that someone put there
        if not files:
            return None
        card, path = Card(model=files[0].name), files[0]
    except (OSError, ValueError, AttributeError, TypeError):
        raise FormatError(f"{folder / _CARD} is damaged.", hint="Delete the folder.") from None
    parts = list(path.iterdir()) if path.is_dir() else all_parts(path)
    try:
        info = [part.stat() for part in parts]
    except OSError:
        return None
    if not info:
        return None
    added = (folder / _CARD if (folder / _CARD).exists() else parts[0]).stat().st_mtime
    return StoredModel(name, path, sum(i.st_size for i in info), added, card)


def _take(source: Path, folder: Path, prefix: str) -> str:
    """Links a file into a folder and returns its name there; where it cannot be linked, its path."""
    if not source.exists():
        raise ModelNotFoundError(f"{source}: no such file.", hint="Check the path.")
    real = source.resolve()
    if real.is_file():
        with suppress(OSError):
            name = prefix + re.sub(r"^adapter-\d+-", "", source.name)  # a copy of a copy keeps its name
            os.link(real, folder / name)
            return name
    return str(source.absolute())


def _staging(name: str) -> Path:
    return models_folder() / ".incoming" / quote(checked_name(name), safe="")


@contextmanager
def _locked() -> Iterator[None]:
    import filelock

    models_folder().mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(models_folder() / ".lock"):
        yield


def _finish_what_was_begun() -> None:
    if any(models_folder().glob(f".incoming/*/{_CARD}")):
        with _locked():
            _finish_all()


def _finish_all() -> None:
    """Puts every model whose card is written in its place. Called under the lock."""
    for card in models_folder().glob(f".incoming/*/{_CARD}"):
        place = models_folder() / card.parent.name
        if place.exists():
            _trash(place)
        with suppress(OSError):
            for litter in card.parent.glob("*.lock"):
                litter.unlink()
        os.rename(card.parent, place)


def _trash(folder: Path) -> None:
    """Deletes a folder: it is gone at once, or not at all."""
    bin_ = models_folder() / ".trash"
    bin_.mkdir(exist_ok=True)
    gone = bin_ / f"{folder.name}.{os.getpid()}.{os.urandom(4).hex()}"
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
