"""How the page is sent: one small file, headers that hold it to this server, and plain words when it was not built."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from halfbyte.server import page

from ..conftest import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in the place of the built page."""
    monkeypatch.setattr(page, "__path__", [str(tmp_path)])
    page.load.cache_clear()
    yield tmp_path
    page.load.cache_clear()


@pytest.fixture
def client(folder: Path) -> TestClient:
    app = FastAPI()
    app.include_router(page.router)
    return TestClient(app)


def test_a_build_without_the_page_says_how_to_get_it(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200  # the server itself is well
    assert "npm run build" in answer.text
    assert "script-src 'none'" in answer.headers["content-security-policy"]


def test_the_policy_allows_this_page_only(client: TestClient, folder: Path) -> None:
    (folder / "index.html").write_text(
        "<!doctype html><style>a{color:red}</style><script>1 < 2 && '<style>no</style>'</script>"
    )
    policy = client.get("/").headers["content-security-policy"]
    # openssl dgst -sha256 -binary | base64
    assert "style-src 'sha256-6hWWMOcF+mJesSJGYhmK2lkIIEw9Xc5XKGLPVzh8yxs='" in policy
    assert "script-src 'sha256-NIWi+9FlNuZiv5K1A93xL1m5Dm9HOEOz6M4lnlahxk4='" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_compressed_cached_and_checked(client: TestClient, folder: Path) -> None:
    (folder / "index.html").write_text("<!doctype html><p>page</p>")
    packed = client.get("/", headers={"accept-encoding": "gzip"})
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text == "<!doctype html><p>page</p>"
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
    assert plain.headers["x-content-type-options"] == "nosniff"
    again = client.get("/", headers={"if-none-match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200


@pytest.mark.browser
def test_the_built_page_is_one_small_file(built_page: Path) -> None:
    html = built_page.read_text()
    assert len(gzip.compress(html.encode())) < 300_000
    head = html[: html.index("<script")]
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", head)
    assert '<link rel="stylesheet' not in html


def test_licences_of_the_page_are_told() -> None:
    folder = REPOSITORY / "page"
    told = (folder / "LICENSES.txt").read_text()
    for name, version in json.loads((folder / "package.json").read_text())["dependencies"].items():
        assert f"\n{name} {version}, " in told
