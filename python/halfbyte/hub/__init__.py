"""Where models come from and where they are kept."""

from halfbyte.hub.aliases import ALIASES, Alias
from halfbyte.hub.resolve import pull_model, resolve_model
from halfbyte.hub.store import StoredModel, find_stored, list_stored, models_folder, remove_stored

__all__ = [
    "ALIASES",
    "Alias",
    "StoredModel",
    "find_stored",
    "list_stored",
    "models_folder",
    "pull_model",
    "remove_stored",
    "resolve_model",
]
