"""The model store: a folder of GGUF files, one folder a model. Files appear in it whole or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from halfbyte.errors import DownloadError, ModelNotFoundError


@dataclass(frozen=True)
class StoredModel:
    """A model in the store."""

    name: str
    path: Path
    n_bytes: int
    modified: float


def models_folder() -> Path:
    """$HALFBYTE_MODELS, else models/ in the user's data folder."""
    wanted = os.environ.get("HALFBYTE_MODELS")
    return Path(wanted) if wanted else Path(platformdirs.user_data_dir("halfbyte", appauthor=False)) / "models"


def list_stored() -> list[StoredModel]:
    """Every model in the store, by name."""
    found = []
    folder = models_folder()
    for path in sorted(folder.glob("*/*.gguf")) if folder.is_dir() else []:
        info = path.stat()
        found.append(StoredModel(path.parent.name, path, info.st_size, info.st_mtime))
    return found


def find_stored(name: str) -> StoredModel | None:
    """The stored model of that name, or None."""
    return next((model for model in list_stored() if model.name == name), None)


def remove_stored(name: str) -> StoredModel:
    """Deletes a model's folder. Raises ModelNotFoundError."""
    model = find_stored(name)
    if model is None:
        known = ", ".join(m.name for m in list_stored()) or "nothing"
        raise ModelNotFoundError(f'There is no model "{name}" in the store.', hint=f"It holds {known}.")
    shutil.rmtree(model.path.parent)
    return model


def require_space(n_bytes: int, folder: Path) -> None:
    """Raises DownloadError when the disk cannot hold n_bytes more."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if n_bytes > free:
        raise DownloadError(
            f"{n_bytes / 2**20:.0f} MiB are needed at {folder}, but only {free / 2**20:.0f} MiB are free.",
            hint="Free some space, or set HALFBYTE_MODELS to a folder on another disk.",
        )
