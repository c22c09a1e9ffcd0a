"""Where models come from and where they are kept."""

from halfbyte.hub.aliases import ALIASES, Alias
from halfbyte.hub.download import DownloadProgress
from halfbyte.hub.resolve import ModelFiles, open_model, pull_model, resolve_model, stored_files
from halfbyte.hub.store import (
    Card,
    StoredModel,
    add_stored,
    checked_name,
    copy_stored,
    find_stored,
    get_stored,
    list_stored,
    models_folder,
    prune,
    remove_stored,
)

__all__ = [
    "ALIASES",
    "Alias",
    "Card",
    "DownloadProgress",
    "ModelFiles",
    "StoredModel",
    "add_stored",
    "checked_name",
    "copy_stored",
    "find_stored",
    "get_stored",
    "list_stored",
    "models_folder",
    "open_model",
    "prune",
    "pull_model",
    "remove_stored",
    "resolve_model",
    "stored_files",
]
