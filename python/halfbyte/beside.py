"""Files and folders that appear at their place when they are complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfbyte.errors import FileError, HalfbyteError


@contextmanager
def written_beside(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """A new file (not made yet) or empty folder, which takes the target's place when the block ends without an error.

    One process at a time; what a killed one left is overwritten: its lock died with it. Raises FileError.
    """
    new, old = (target.with_name(f"{target.name}.{kind}") for kind in ("new", "old"))
    try:
        lock = _claim(new, folder)
    except HalfbyteError:
        raise
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror}.") from None
    try:
        if folder:
            if old.exists() and not target.exists():
                old.rename(target)  # a kill between the two renames below
            for left in new.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield new
        if folder and target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        new.rename(target)
    except HalfbyteError:
        raise
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror}.") from None
    finally:
        if folder:
            shutil.rmtree(new, ignore_errors=True)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
        else:
            new.unlink(missing_ok=True)
        os.close(lock)


def _claim(path: Path, folder: bool) -> int:
    """A locked descriptor of the file or folder."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls another process may have finished and renamed what we locked.
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise FileError(
                f"{path} is being written by another process.", hint="Wait for it to end, or choose another name."
            ) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)
