"""The chat page at /: the one file that the front end's build (page/) puts here, sent so that it can reach this server only."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_MISSING = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>halfbyte</title>
<h1>The server runs; this build has no chat page</h1>
<p>The API is complete: see <a href="v1/models">/v1/models</a> and <a href="openapi.json">/openapi.json</a>.</p>
<p>The page is built with Node 20 or later. Install halfbyte again from its sources on a machine that has <code>npm</code>
(<code>pip install --no-cache-dir --force-reinstall ".[server]"</code>), or build the page alone in a source checkout:
<code>cd page &amp;&amp; npm ci &amp;&amp; npm run build</code>. Then restart the server.</p>
"""


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    page = load()
    headers = dict(page.headers)
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(page.compressed, 200, headers | {"content-encoding": "gzip"})
    return Response(page.body, 200, headers)


@dataclass(frozen=True)
class Page:
    """A page as it is sent, plain and with gzip."""

    body: bytes
    compressed: bytes
    headers: dict[str, str]


@cache
def load() -> Page:
    """The built page, or the one that says how to build it; read once a process."""
    # An editable install has two folders of this name: the sources, and what its build has installed.
    built = [path for folder in __path__ if (path := Path(folder, "index.html")).is_file()]
    body = built[0].read_bytes() if built else _MISSING
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": _policy(body.decode()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
        "vary": "accept-encoding",
        "etag": f'W/"{hashlib.sha256(body).hexdigest()[:32]}"',
    }
    return Page(body, gzip.compress(body, mtime=0), headers)


def _policy(html: str) -> str:
    """Runs exactly the scripts and styles of this page, and lets them call this server only."""
    found = _InlineHashes()
    found.feed(html)
    nothing = ["'none'"]
    return "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(found.script or nothing),
            "style-src " + " ".join(found.style or nothing),
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types svelte-trusted-html dompurify",
        )
    )


class _InlineHashes(HTMLParser):
    """Collects the CSP hashes of inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.script: list[str] = []
        self.style: list[str] = []
        self._inside: list[str] | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = {"script": self.script, "style": self.style}.get(tag)
        self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if self._inside is not None:
            digest = hashlib.sha256(self._text.encode()).digest()
            self._inside.append(f"'sha256-{base64.b64encode(digest).decode()}'")
        self._inside = None
