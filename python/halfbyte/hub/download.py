"""Files over HTTP: in parallel, going on after a kill, checked by hash, there whole or not at all.

While a file `m.gguf` is fetched, `m.gguf.part` holds its bytes and `m.gguf.part.json` says which of them are there.
The file is cut into segments that several connections fetch; the journal names for each how many bytes are on disk,
and is written after them, so a process may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from halfbyte.errors import DownloadError
from halfbyte.hub.space import disk_full, require_space, say_when_full
from halfbyte.hub.web import Response, advice, open_address

#: Called with a file's name, bytes done and bytes in all (0: unknown).
DownloadProgress = Callable[[str, int, int], None]

_CHUNK = 1 << 20
_SEGMENT = 32 << 20
_JOURNAL_STEP = 4 << 20
_CONNECTIONS = 4
# Failures in a row, without a byte between them, after which a file is given up.
_ATTEMPTS = 4
_BACKOFF_S = 0.5


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch. digest is "sha256:<hex>", "git:<hex>" (Git's name of the content) or "" where it is not known,
    n_bytes 0 where the size is not. Headers are not sent to other hosts."""

    address: str
    target: Path
    n_bytes: int = 0
    digest: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def download(files: Sequence[RemoteFile], tell: DownloadProgress) -> None:
    """Fetches what is not there yet, going on where an earlier try was stopped.

    Raises DownloadError when a server refuses, the network fails _ATTEMPTS times without progress, the disk is full,
    or content does not match its hash. What was fetched so far stays for the next try.
    """
    telling = threading.Lock()

    def tell_in_turn(name: str, done: int, total: int) -> None:
        with telling:
            tell(name, done, total)

    with ExitStack() as locks:
        jobs = []
        for file in sorted({f.target: f for f in files}.values(), key=lambda f: f.target):
            locks.enter_context(exclusive(file.target))
            if file.target.exists():
                _journal_of(file.target).unlink(missing_ok=True)  # of one that was killed behind its last step but this
            else:
                jobs.append(_Job(file, tell_in_turn))
        for folder in {job.file.target.parent for job in jobs}:
            require_space(sum(j.missing() for j in jobs if j.file.target.parent == folder), folder)
        stop = threading.Event()
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="download") as pool:
            try:
                for job in jobs:
                    job.open()
                futures = [pool.submit(job.fetch, segment, stop) for job in jobs for segment in job.todo()]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                stop.set()  # the others end within a chunk
                pool.shutdown(cancel_futures=True)
                for job in jobs:
                    job.save()
        for job in jobs:
            job.finish()


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds the lock of a file to be made: of several processes that want it, one makes it."""
    import filelock  # the system frees its lock when a process dies

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(target.name + ".lock")
    with filelock.FileLock(lock):
        yield
        if target.exists():  # whoever waits on the lost file sees the target and makes nothing
            with suppress(OSError):
                lock.unlink()


class _Job:
    """One file on its way."""

    def __init__(self, file: RemoteFile, tell: DownloadProgress) -> None:
        self.file, self.tell = file, tell
        self.part = file.target.with_name(file.target.name + ".part")
        self.journal = _journal_of(file.target)
        self._lock = threading.Lock()
        self._state = self._read_journal()
        self._unsaved = 0

    # What is there ------------------------------------------------------------------------------------------------

    def _read_journal(self) -> dict[str, Any]:
        """{"n_bytes", "validator", "done": [bytes of each segment]}; empty when there is nothing to go on with."""
        try:
            state = json.loads(self.journal.read_text())
            n_bytes, done, validator = state["n_bytes"], state["done"], state["validator"]
            sizes = [e - b for b, e in _segments(n_bytes)]
            ours = state["digest"] == self.file.digest and self.file.n_bytes in (0, n_bytes)
            known = bool(self.file.digest or validator)
            fits = len(done) == len(sizes) and all(0 <= d <= s for d, s in zip(done, sizes, strict=True))
            if ours and known and fits and self.part.stat().st_size == n_bytes:
                return dict(state)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def missing(self) -> int:
        """Bytes still to come; 0 when the size is not known."""
        wanted: int = self._state.get("n_bytes") or self.file.n_bytes
        done: list[int] = self._state.get("done", [])
        return max(0, wanted - sum(done))

    def open(self) -> None:
        """Makes the part's file and journal; asks the server for the size where it is not known."""
        if self._state:
            return
        n_bytes, validator = self.file.n_bytes, ""
        if not (n_bytes and self.file.digest):
            n_bytes, validator = self._retrying(self._ask)
            if self.file.n_bytes and n_bytes not in (0, self.file.n_bytes):
                raise DownloadError(
                    f"{self.file.address} has {n_bytes} bytes; {self.file.n_bytes} were expected.",
                    hint="The file has changed; ask for it again.",
                )
            require_space(n_bytes, self.part.parent)
        with say_when_full(self.part):
            with self.part.open("wb") as out:
                out.truncate(n_bytes)
            done = [0] * len(_segments(n_bytes))
            self._state = {"n_bytes": n_bytes, "digest": self.file.digest, "validator": validator, "done": done}
            self._save()

    def _ask(self) -> tuple[int, str]:
        """Size and validator of the file, asked for with its first byte: signed addresses answer to GET alone."""
        try:
            with open_address(self.file.address, {**self.file.headers, "Range": "bytes=0-0"}) as response:
                return response.n_bytes, response.validator
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            return 0, ""  # an empty file

    def save(self) -> None:
        """Notes how far the file came."""
        with self._lock, say_when_full(self.part):
            if self.journal.exists():
                self._save()

    def _save(self) -> None:
        beside = self.journal.with_name(self.journal.name + ".new")
        beside.write_text(json.dumps(self._state))
        os.replace(beside, self.journal)
        self._unsaved = 0

    # Fetching -----------------------------------------------------------------------------------------------------

    def todo(self) -> list[int]:
        """Segments that are not whole."""
        sizes = [e - b for b, e in _segments(self._state["n_bytes"])]
        return [i for i, (d, s) in enumerate(zip(self._state["done"], sizes, strict=True)) if d < s or s == 0]

    def fetch(self, segment: int, stop: threading.Event) -> None:
        """Brings one segment in, however often the connection breaks, as long as it gets on."""
        failures = 0
        while not stop.is_set():
            before = self._state["done"][segment]
            try:
                self._fetch_once(segment, stop)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 425, 429):
                    raise _refusal(self.file.address, error) from None
                failure: Exception = error
            except (OSError, EOFError) as error:
                if isinstance(error, DownloadError) or disk_full(error):
                    raise
                failure = error
            failures = failures + 1 if self._state["done"][segment] == before else 1
            self._give_up_or_wait(failures, failure, stop)

    def _fetch_once(self, segment: int, stop: threading.Event) -> None:
        n_bytes, done = self._state["n_bytes"], self._state["done"]
        begin, end = _segments(n_bytes)[segment]
        if n_bytes == 0:
            done[segment] = 0  # a server that tells no size sends no ranges
        at = begin + done[segment]
        headers = dict(self.file.headers)
        in_part = (at, end) != (0, n_bytes)
        if in_part:
            headers["Range"] = f"bytes={at}-{end - 1}"
            if self._state["validator"] and not self.file.digest:
                headers["If-Range"] = self._state["validator"]
        with open_address(self.file.address, headers) as response, self.part.open("r+b", buffering=0) as out:
            if response.n_bytes not in (0, n_bytes):
                raise self._changed()
            if in_part and response.status != 206:
                done[segment], at = 0, begin
                self._skip(response, begin, stop)
            out.seek(at)
            while (at < end or n_bytes == 0) and not stop.is_set():
                chunk = response.read(min(_CHUNK, end - at) if n_bytes else _CHUNK)
                if not chunk:
                    break
                self._write(out, chunk, segment)
                at += len(chunk)
        if at < end and not stop.is_set():
            raise EOFError(f"the connection ended after {at} of {end} bytes")

    def _skip(self, response: Response, n_bytes: int, stop: threading.Event) -> None:
        """Throws away what lies before a segment: the server sent everything, for it knows no ranges."""
        if not self.file.digest and response.validator != self._state["validator"]:
            raise self._changed()
        while n_bytes and not stop.is_set() and (chunk := response.read(min(_CHUNK, n_bytes))):
            n_bytes -= len(chunk)

    def _changed(self) -> DownloadError:
        self._discard()
        return DownloadError(
            f"{self.file.address} has changed while it was fetched.", hint="Run the command again: it starts over."
        )

    def _write(self, out: FileIO, chunk: bytes, segment: int) -> None:
        with say_when_full(self.part):
            rest = memoryview(chunk)
            while rest:
                rest = rest[out.write(rest) :]
            with self._lock:
                self._state["done"][segment] += len(chunk)
                self._unsaved += len(chunk)
                if self._unsaved >= _JOURNAL_STEP:
                    self._save()
                self.tell(self.file.target.name, sum(self._state["done"]), self._state["n_bytes"])

    def _retrying(self, ask: Callable[[], tuple[int, str]]) -> tuple[int, str]:
        failures = 0
        while True:
            try:
                return ask()
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 425, 429):
                    raise _refusal(self.file.address, error) from None
                failure: Exception = error
            except OSError as error:
                failure = error
            failures += 1
            self._give_up_or_wait(failures, failure, threading.Event())

    def _give_up_or_wait(self, failures: int, failure: Exception, stop: threading.Event) -> None:
        if failures >= _ATTEMPTS:
            reason = getattr(failure, "reason", None) or str(failure) or type(failure).__name__
            raise DownloadError(
                f"{self.file.address}: {reason}.",
                hint="Is there a network? Run the command again: it goes on where it stopped.",
            )
        asked = getattr(failure, "headers", None)
        seconds = str(asked.get("Retry-After", "")) if asked else ""
        stop.wait(min(30.0, float(seconds)) if seconds.isdecimal() else _BACKOFF_S * 2 ** (failures - 1))

    # The end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Checks the content and puts it in its place."""
        if self.file.digest and (found := _digest_of(self.part, self.file.digest)) != self.file.digest:
            self._discard()
            raise DownloadError(
                f"{self.file.target.name} has the hash {found}; {self.file.digest} was expected.",
                hint="The download was damaged; run it again.",
            )
        with self.part.open("rb") as part:
            os.fsync(part.fileno())
        os.replace(self.part, self.file.target)
        self.journal.unlink(missing_ok=True)

    def _discard(self) -> None:
        self.journal.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


def _journal_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _segments(n_bytes: int) -> list[tuple[int, int]]:
    """Where each segment begins and ends; one of no known end when the size is not known."""
    return [(b, min(n_bytes, b + _SEGMENT)) for b in range(0, n_bytes, _SEGMENT)] or [(0, 0)]


def _digest_of(path: Path, like: str) -> str:
    """The digest of a file, of the kind that `like` is of."""
    kind = like.partition(":")[0]
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def _refusal(address: str, error: urllib.error.HTTPError) -> DownloadError:
    return DownloadError(f"{address}: the server answered {error.code} {error.reason}.", hint=advice(error.code))
