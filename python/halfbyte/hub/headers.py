"""Headers of GGUF files that lie on a server: read by range requests into sparse files that readers take for the whole."""

from __future__ import annotations

import struct
import urllib.error
from collections.abc import Sequence
from pathlib import Path

from halfbyte.errors import DownloadError, FormatError
from halfbyte.hub.download import RemoteFile
from halfbyte.hub.web import advice, open_address

_FIRST = 1 << 20
# No model's header is larger: the longest vocabularies take about 20 MiB.
_LIMIT = 256 << 20
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


class NeedMoreError(Exception):
    """The header goes on after the bytes that are there."""


def fetch_headers(files: Sequence[RemoteFile]) -> None:
    """Makes each file's target a sparse file of its size that holds its header. Raises DownloadError or FormatError."""
    for file in files:
        data = b""
        while True:
            data += _range(file, len(data), max(_FIRST, len(data)))
            try:
                header_end(data)
                break
            except NeedMoreError:
                if len(data) >= min(file.n_bytes, _LIMIT):
                    raise FormatError(f"{Path(file.address).name} has no GGUF header that ends.") from None
        file.target.parent.mkdir(parents=True, exist_ok=True)
        with file.target.open("wb") as out:
            out.write(data)
            out.truncate(file.n_bytes)


def _range(file: RemoteFile, begin: int, n_bytes: int) -> bytes:
    end = min(file.n_bytes, begin + n_bytes)
    try:
        with open_address(file.address, {**file.headers, "Range": f"bytes={begin}-{end - 1}"}) as response:
            if response.status != 206:
                raise DownloadError(f"{file.address}: the server gives whole files only; their headers cannot be read.")
            data = b""
            while len(data) < end - begin and (chunk := response.read(end - begin - len(data))):
                data += chunk
            if len(data) < end - begin:
                raise ConnectionError(f"the connection ended after {len(data)} of {end - begin} bytes")
            return data
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{file.address}: the server answered {error.code} {error.reason}.", hint=advice(error.code)
        ) from None
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{file.address}: {error}.", hint="Is there a network?") from None


def header_end(data: bytes) -> int:
    """Where a GGUF header ends. Raises NeedMoreError when it goes on after these bytes, FormatError when it is none."""
    walk = _Walk(data)
    if data[:4] != b"GGUF"[: len(data)]:
        raise FormatError("This is no GGUF file: it does not begin with GGUF.")
    walk.skip(4)
    version = walk.number("<I")
    if version not in (2, 3):
        raise FormatError(f"GGUF version {version} is not known; 2 or 3 was expected.")
    n_tensors, n_pairs = walk.number("<Q"), walk.number("<Q")
    for _ in range(n_pairs):
        walk.string()
        walk.value(walk.number("<I"), 0)
    for _ in range(n_tensors):
        walk.string()
        walk.skip(8 * walk.number("<I") + 4 + 8)
    return walk.at


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self._data):
            raise NeedMoreError

    def number(self, form: str) -> int:
        begin = self.at
        self.skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self._data, begin)[0])

    def string(self) -> None:
        self.skip(self.number("<Q"))

    def value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY and depth < 4:
            inner, n = self.number("<I"), self.number("<Q")
            if inner in _SIZES:
                self.skip(_SIZES[inner] * n)
                return
            for _ in range(n):
                self.value(inner, depth + 1)
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            raise FormatError(f"The GGUF header has a value of type {kind}, which is not known.")
