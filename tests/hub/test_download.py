"""Downloads from a server that breaks connections, refuses, lies about hashes and knows no ranges."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from halfbyte.errors import DownloadError
from halfbyte.hub import download as module
from halfbyte.hub.download import RemoteFile, download

from .server import World, git_sha1, sha256

CONTENT = bytes(range(256)) * 2000
DIGEST = f"sha256:{sha256(CONTENT)}"


def quiet(*_: object) -> None:
    pass


@pytest.fixture(autouse=True)
def small_segments(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT", 100_000)
    monkeypatch.setattr(module, "_JOURNAL_STEP", 10_000)
    monkeypatch.setattr(module, "_CHUNK", 8_000)
    world.files["m.gguf"] = CONTENT


def litter(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("known", [True, False])
def test_a_file_comes_in_segments(server: str, world: World, tmp_path: Path, known: bool) -> None:
    told: list[tuple[str, int, int]] = []
    file = RemoteFile(
        f"{server}/plain/m.gguf", tmp_path / "m.gguf", len(CONTENT) if known else 0, DIGEST if known else ""
    )
    download([file], lambda *step: told.append(step))
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    assert sum(r != "bytes=0-0" for r in world.ranges) == 6
    assert told[-1] == ("m.gguf", len(CONTENT), len(CONTENT))
    assert [d for _, d, _ in told] == sorted(d for _, d, _ in told)
    assert litter(tmp_path) == ["m.gguf"]


def test_broken_connections_are_taken_up_again(server: str, world: World, tmp_path: Path) -> None:
    world.cut = 9
    download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", len(CONTENT), DIGEST)], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    assert len(world.ranges) == 6 + 9
    assert sum(1 for r in world.ranges if not r.split("-")[0].endswith("00000") and r != "bytes=0-99999") == 9


@pytest.mark.parametrize("digest", [DIGEST, ""])
def test_servers_without_ranges(server: str, world: World, tmp_path: Path, digest: str) -> None:
    world.no_ranges, world.cut = True, 2
    download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", len(CONTENT), digest)], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT


def test_busy_servers_are_asked_again_and_refusals_are_final(server: str, world: World, tmp_path: Path) -> None:
    world.refuse = [503, 429, 500]
    download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf")], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="404"):
        download([RemoteFile(f"{server}/nowhere/m.gguf", tmp_path / "n.gguf")], quiet)
    world.refuse = [401]
    with pytest.raises(DownloadError, match="401"):
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "o.gguf")], quiet)
    world.refuse = [503] * 99
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "p.gguf")], quiet)


def test_wrong_content_leaves_nothing(server: str, world: World, tmp_path: Path) -> None:
    for digest in ("sha256:" + "0" * 64, "git:" + "0" * 40):
        with pytest.raises(DownloadError, match="was expected"):
            download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", len(CONTENT), digest)], quiet)
        assert not any(name.endswith((".gguf", ".part", ".json")) for name in litter(tmp_path))
    download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", 0, f"git:{git_sha1(CONTENT)}")], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT


def test_one_that_was_killed_at_the_very_end_leaves_nothing(tmp_path: Path) -> None:
    """The content is in its place, and the journal was not deleted any more."""
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    (tmp_path / "m.gguf.part.json").write_text("{}")
    download([RemoteFile("http://127.0.0.1:1/m.gguf", tmp_path / "m.gguf", len(CONTENT), DIGEST)], quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_size_that_was_not_promised(server: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="has changed"):
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", len(CONTENT) - 1, DIGEST)], quiet)
    assert not (tmp_path / "m.gguf").exists()


def test_a_part_of_another_file_is_thrown_away(server: str, world: World, tmp_path: Path) -> None:
    part, journal = tmp_path / "m.gguf.part", tmp_path / "m.gguf.part.json"
    for state in ("{", "[]", '{"n_bytes": 5, "digest": "", "validator": "", "done": [5]}', '{"n_bytes": -1}'):
        part.write_bytes(b"other")
        journal.write_text(state)
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf")], quiet)
        assert (tmp_path / "m.gguf").read_bytes() == CONTENT
        (tmp_path / "m.gguf").unlink()


def test_a_file_that_changed_since_is_fetched_anew(server: str, world: World, tmp_path: Path) -> None:
    world.refuse = [0, 404]
    with pytest.raises(DownloadError):
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf")], quiet)
    assert json.loads((tmp_path / "m.gguf.part.json").read_text())["n_bytes"] == len(CONTENT)
    world.refuse = []
    world.files["m.gguf"] = CONTENT[::-1]
    with pytest.raises(DownloadError, match="starts over"):
        download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf")], quiet)
    download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf")], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT[::-1]


def test_an_empty_file(server: str, world: World, tmp_path: Path) -> None:
    world.files["empty"] = b""
    download([RemoteFile(f"{server}/plain/empty", tmp_path / "empty", 0, f"sha256:{sha256(b'')}")], quiet)
    assert (tmp_path / "empty").read_bytes() == b""


def test_several_files_and_two_who_want_the_same(server: str, world: World, tmp_path: Path) -> None:
    world.files |= {f"{i}.gguf": CONTENT[i:] for i in range(5)}
    files = [RemoteFile(f"{server}/plain/{i}.gguf", tmp_path / f"{i}.gguf", len(CONTENT) - i) for i in range(5)]
    threads = [threading.Thread(target=download, args=(files, quiet)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((tmp_path / f"{i}.gguf").read_bytes() == CONTENT[i:] for i in range(5))
    assert world.n_sent <= 6 * sum(f.n_bytes for f in files) // 5


def test_credentials_stay_with_their_host(server: str, world: World, tmp_path: Path) -> None:
    world.storage = server.replace("127.0.0.1", "localhost")
    headers = {"Authorization": "Bearer secret"}
    address = f"{server}/owner/repo/resolve/main/m.gguf"
    download([RemoteFile(address, tmp_path / "m.gguf", len(CONTENT), DIGEST, headers)], quiet)
    seen = dict(zip(world.asked, world.tokens, strict=True))
    assert seen == {"/owner/repo/resolve/main/m.gguf": "Bearer secret", "/plain/m.gguf": ""}


def test_the_disk_is_asked_first(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    for n_bytes in (0, len(CONTENT)):
        with pytest.raises(DownloadError, match="only 0 MiB are free"):
            download([RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", n_bytes)], quiet)
    assert not any(name.endswith((".gguf", ".part")) for name in litter(tmp_path))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from halfbyte.hub import download as module
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
module.download([module.RemoteFile(sys.argv[1], Path(sys.argv[2]))], lambda *_: None)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are POSIX's")
def test_a_disk_that_becomes_full(server: str, tmp_path: Path) -> None:
    address = f"{server}/plain/m.gguf"
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, address, tmp_path / "m.gguf"], capture_output=True, text=True, check=False
    )
    assert "DownloadError: The disk became full" in result.stderr
    download([RemoteFile(address, tmp_path / "m.gguf")], quiet)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT


FETCH = """
import sys
from pathlib import Path
from halfbyte.hub import download as module
module._SEGMENT, module._JOURNAL_STEP, module._CHUNK = 100_000, 10_000, 8_000
module.download([module.RemoteFile(sys.argv[1], Path(sys.argv[2]), digest=sys.argv[3])], lambda *_: None)
"""


@pytest.mark.parametrize("digest", [DIGEST, ""])
def test_a_killed_process_is_succeeded(server: str, world: World, tmp_path: Path, digest: str) -> None:
    command = [sys.executable, "-c", FETCH, f"{server}/plain/m.gguf", str(tmp_path / "m.gguf"), digest]
    world.hold_after = 70_000
    victim = subprocess.Popen(command)
    journal = tmp_path / "m.gguf.part.json"
    deadline = time.monotonic() + 200
    while not (journal.exists() and sum(json.loads(journal.read_text())["done"]) >= 4 * 60_000):
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "m.gguf").exists()
    world.let_go()
    world.ranges.clear()
    subprocess.run(command, check=True)
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    assert sum(not r.split("-")[0].endswith(("00000", "=0")) for r in world.ranges) == 4  # four were under way
    assert litter(tmp_path) == ["m.gguf"]
