"""The models that a server may load, by the names that clients use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import ModelNotFoundError
from halfbyte.hub import ModelFiles, StoredModel, find_stored, list_stored, open_model, stored_files
from halfbyte.hub.variants import all_parts


@dataclass(frozen=True)
class Entry:
    """A model that can be loaded: one of the store, or what a reference names. created: Unix seconds."""

    name: str
    reference: str = ""
    stored: StoredModel | None = None
    created: float = 0.0

    def open(self) -> ModelFiles:
        """Its files; fetched when they are not here."""
        return stored_files(self.stored) if self.stored else open_model(self.reference)

    def here(self) -> ModelFiles | None:
        """Its files, if they are here."""
        if self.stored:
            return stored_files(self.stored)
        return ModelFiles(Path(self.reference)) if Path(self.reference).exists() else None


@dataclass(frozen=True)
class Catalog:
    """Fixed names, the models of a folder, and those of the model store; the first source of a name counts."""

    fixed: Mapping[str, str]
    folder: Path | None = None
    with_store: bool = False

    def entries(self) -> dict[str, Entry]:
        """Every model by the names that clients use, as the disk has them now."""
        first: dict[str, str] = {}  # several names of one model: it is loaded once, under the first
        found = {name: Entry(first.setdefault(ref, name), ref) for name, ref in self.fixed.items()}
        for path in sorted(self.folder.iterdir()) if self.folder and self.folder.is_dir() else []:
            if _is_model(path):
                name = path.stem if path.suffix == ".gguf" else path.name
                found.setdefault(name, Entry(name, str(path), created=path.stat().st_mtime))
        for model in list_stored() if self.with_store else []:
            found.setdefault(model.name, Entry(model.name, stored=model, created=model.modified))
        return found

    def find(self, name: str | None) -> Entry:
        """The model of that name (":latest" says nothing); None: the first. Raises ModelNotFoundError."""
        plain = (name or next(iter(self.fixed), "")).removesuffix(":latest")
        for known in (plain, f"{plain}:latest"):
            if known in self.fixed:
                first = next(n for n, reference in self.fixed.items() if reference == self.fixed[known])
                return Entry(first, self.fixed[known])
        if self.folder is None and self.with_store and (model := find_stored(plain)) is not None:
            return Entry(model.name, stored=model, created=model.modified)
        entries = self.entries()
        if not name and entries:
            return next(iter(entries.values()))
        if plain in entries:
            return entries[plain]
        known = ", ".join(list(entries)[:20]) or "none"
        raise ModelNotFoundError(f'The model "{plain[:120]}" does not exist.', hint=f"Served here: {known}.")


def _is_model(path: Path) -> bool:
    """A GGUF file (of a split one the first part), or a folder of safetensors files."""
    if path.suffix == ".gguf":
        return path == all_parts(path)[0] and not path.name.startswith((".", "mmproj"))
    return (path / "config.json").is_file()
