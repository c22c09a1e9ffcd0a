"""Models by address: https://host/model.gguf, with #sha256=... when its content is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urldefrag, urlparse

from halfbyte.errors import ModelNotFoundError
from halfbyte.hub.sources.download import download
from halfbyte.hub.store import models_folder


def fetch(address: str, tell: Callable[[str, int, int], None]) -> Path:
    """The file at `address`, kept in the store under its own name."""
    plain, fragment = urldefrag(address)
    name = Path(urlparse(plain).path).name
    if not name.endswith(".gguf"):
        raise ModelNotFoundError(f"{plain} does not name a .gguf file.")
    target = models_folder() / name.removesuffix(".gguf") / name
    if target.is_file():
        return target
    return download(
        plain, target, tell, sha256=fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
    )
