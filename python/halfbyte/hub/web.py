"""Asking web servers: one GET with redirects that keep secrets to their host, and what an answer says of a file."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from halfbyte.errors import DownloadError, ModelNotFoundError

_TIMEOUT_S = 15.0
# The longest document that is read whole (lists of files, manifests).
_DOCUMENT_LIMIT = 16 << 20


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Sends credentials on to the same host only, and never in the clear where they came encrypted: downloads are
    redirected to storage that is someone else's."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        asked, told = urlsplit(req.full_url), urlsplit(newurl)
        if new is not None and (told.netloc != asked.netloc or (asked.scheme, told.scheme) == ("https", "http")):
            new.remove_header("Authorization")
            new.remove_header("Cookie")
        return new


class Response:
    """An answer that is being read. A context manager."""

    def __init__(self, inner: http.client.HTTPResponse) -> None:
        self._inner = inner
        self.status = inner.status

    @property
    def n_bytes(self) -> int:
        """Size of the whole file, of which this may be a range; 0: not told."""
        told = self._inner.headers.get("Content-Range", "").rpartition("/")[2]
        if self.status == 206:
            return int(told) if told.isdecimal() else 0
        length = self._inner.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else 0

    @property
    def validator(self) -> str:
        """What changes when the content does (a strong ETag, else Last-Modified); "" where the server tells none."""
        etag = self._inner.headers.get("ETag", "")
        return etag if etag and not etag.startswith("W/") else self._inner.headers.get("Last-Modified", "")

    def read(self, n_bytes: int) -> bytes:
        """What has come, at most n_bytes; b"" at the end. A connection that breaks raises OSError."""
        try:
            return self._inner.read1(n_bytes)
        except http.client.HTTPException as error:
            raise ConnectionError(f"the connection broke ({type(error).__name__})") from error

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()


def open_address(address: str, headers: Mapping[str, str] = {}) -> Response:
    """Begins a GET. Raises urllib.error.HTTPError for refusals and OSError when the network fails."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise DownloadError(f"{address} is no address of the web.", hint="It must begin with https:// or http://.")
    request = urllib.request.Request(address, headers={"User-Agent": "halfbyte", **headers})
    try:
        return Response(urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT_S))
    except urllib.error.HTTPError as error:
        error.close()  # its body is not read
        raise
    except http.client.HTTPException as error:  # what comes back is not HTTP
        raise ConnectionError(f"the server does not speak HTTP ({type(error).__name__})") from error


def get_text(address: str, headers: Mapping[str, str] = {}, *, digest: str = "") -> str:
    """The document at an address, checked against "sha256:<hex>" when it is given.

    Raises ModelNotFoundError for 404, DownloadError for every other failure; a refusal is their __cause__.
    """
    content = b""
    try:
        with open_address(address, headers) as response:
            while chunk := response.read(1 << 20):
                content += chunk
                if len(content) > _DOCUMENT_LIMIT:
                    raise DownloadError(f"{address} is longer than {_DOCUMENT_LIMIT >> 20} MiB.")
            if response.n_bytes not in (0, len(content)):
                raise ConnectionError(f"the connection ended after {len(content)} of {response.n_bytes} bytes")
    except urllib.error.HTTPError as error:
        kind = ModelNotFoundError if error.code == 404 else DownloadError
        raise kind(f"{address}: the server answered {error.code} {error.reason}.", hint=advice(error.code)) from error
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(f"{address}: {reason}.", hint="Is there a network?") from None
    if digest and digest != (found := f"sha256:{hashlib.sha256(content).hexdigest()}"):
        raise DownloadError(f"{address} has the hash {found}; {digest} was expected.", hint="Run the command again.")
    return content.decode("utf-8", "replace")


def get_json(address: str, headers: Mapping[str, str] = {}) -> Any:
    """The JSON document at an address. Raises as get_text() does."""
    try:
        return json.loads(get_text(address, headers))
    except ValueError:
        raise DownloadError(f"{address} answered with something that is not JSON.") from None


def advice(code: int) -> str:
    """What to do about a refusal."""
    if code in (401, 403):
        return "The model may need a token (HF_TOKEN) or accepted terms."
    return "Check the name." if code == 404 else ""
