"""Models by address: https://host/model.gguf, with #sha256=... when its content is known."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urlsplit

from halfbyte.errors import InvalidArgumentError, ModelNotFoundError
from halfbyte.hub.download import DownloadProgress, RemoteFile, download
from halfbyte.hub.store import Card, StoredModel, checked_name, composing, publish
from halfbyte.hub.variants import all_parts


def name_of(address: str) -> str:
    """The name under which the store keeps what is at an address. Raises ModelNotFoundError."""
    path = Path(unquote(urlsplit(address).path))
    if path.suffix != ".gguf":
        raise ModelNotFoundError(f"{urldefrag(address).url} does not name a .gguf file.")
    return checked_name(re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._"))


def fetch(address: str, tell: DownloadProgress) -> StoredModel:
    """The file at `address`, and the other parts when it is split, in the store under its own name."""
    plain, fragment = urldefrag(address)
    digest = fragment.replace("sha256=", "sha256:", 1)
    if fragment and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise InvalidArgumentError(
            f'"#{fragment}" is no hash.', hint="Write #sha256= and 64 hexadecimal digits in lower case."
        )
    file = Path(unquote(urlsplit(plain).path)).name
    with composing(name_of(address)) as folder:
        parts = [part.name for part in all_parts(folder / file)]
        files = [RemoteFile(_beside(plain, part), folder / part) for part in parts]
        if digest:
            files[0] = RemoteFile(plain, folder / parts[0], digest=digest)
        download(files, tell)
        return publish(name_of(address), Card(model=parts[0], source=plain))


def _beside(address: str, file: str) -> str:
    """The address of a file in the same folder."""
    parts = urlsplit(address)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{quote(file)}").geturl()
