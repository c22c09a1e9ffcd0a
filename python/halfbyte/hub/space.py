"""Room on disks: checked before a download, and recognized when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfbyte.errors import DownloadError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def require_space(n_bytes: int, folder: Path) -> None:
    """Raises DownloadError when the disk cannot hold n_bytes more."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if n_bytes > free:
        raise DownloadError(
            f"{n_bytes / 2**20:.0f} MiB are needed at {folder}, but only {free / 2**20:.0f} MiB are free.",
            hint="Free some space, or set HALFBYTE_MODELS (HF_HOME for models from the hub) to another disk.",
        )


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def say_when_full(path: Path) -> Iterator[None]:
    """Turns a full disk met while `path` is written into a DownloadError."""
    try:
        yield
    except OSError as error:
        if not disk_full(error):
            raise
        raise DownloadError(
            f"The disk became full while {path.name} was written to {path.parent}.",
            hint="Free some space and run the command again: it goes on where it stopped.",
        ) from None
