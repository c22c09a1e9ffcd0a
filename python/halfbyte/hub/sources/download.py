"""A resumable download of one file over HTTP: kept beside its target until complete and checked."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from halfbyte.errors import DownloadError
from halfbyte.hub.store import require_space

_CHUNK = 1 << 20
_TIMEOUT_S = 15.0
_ATTEMPTS = 3


def download(
    address: str,
    target: Path,
    tell: Callable[[str, int, int], None],
    *,
    headers: Mapping[str, str] | None = None,
    sha256: str = "",
    etag: str = "",
) -> Path:
    """Fetches `address` to `target`, going on where an earlier try was stopped.

    The part lies in `<target>.part`; If-Range makes the server start over when the file has changed meanwhile.
    Raises DownloadError when the server refuses, the network fails _ATTEMPTS times, or the hash is wrong.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _fetch(address, part, tell, target.name, dict(headers or {}), etag)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to fetch, or the part is not of this file
                part.unlink(missing_ok=True)
            if error.code < 500 and error.code != 416:
                raise DownloadError(
                    f"{address}: the server answered {error.code} {error.reason}.", hint=_advice(error.code)
                ) from None
            failure: Exception = error
        except (OSError, EOFError) as error:
            failure = error
        if attempt == _ATTEMPTS:
            raise DownloadError(
                f"{address}: {_reason(failure)}.",
                hint="Is there a network? Run the command again: it goes on where it stopped.",
            )
    if sha256:
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise DownloadError(
                f"{target.name} has SHA-256 {found}; {sha256} was expected.",
                hint="The download was damaged; run it again.",
            )
    os.replace(part, target)
    return target


def _fetch(
    address: str, part: Path, tell: Callable[[str, int, int], None], name: str, headers: dict[str, str], etag: str
) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have and etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    elif have:
        have = 0  # without an identity of the content, a part may be of another file
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == 206
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        if total:
            require_space(total - done, part.parent)
        with part.open("ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                tell(name, done, total)
    if total and done < total:
        raise EOFError(f"the connection ended after {done} of {total} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _advice(code: int) -> str:
    if code in (401, 403):
        return "The model may need a token (HF_TOKEN) or accepted terms."
    return "Check the name." if code == 404 else ""


def _reason(error: Exception) -> Any:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
