"""Runs halfbyte commands, one a line of standard input, each in a fork that is killed where the line says.

A line is a JSON object: argv, cwd, environment, and bytes (killed when any file would grow past so many), event (killed
before the n-th time that a file is opened for writing, renamed, removed or made), milliseconds (killed after so many) or
saves (killed when an importance matrix was saved for the n-th time). The answer: the exit code, or minus the signal.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from halfbyte.cli import convert, create, imatrix, merge, perplexity, prune, pull, quantize, split  # noqa: F401
from halfbyte.cli.main import main
from halfbyte.quantize import Importance

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def kill_at(event: int) -> None:
    left = event

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or name in _CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_when_saved(times: int) -> None:
    left, save = times, Importance.save

    def save_and_die(self: Importance, path: str) -> None:
        nonlocal left
        save(self, path)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Importance.save = save_and_die  # type: ignore[method-assign,assignment]


def run(job: dict[str, Any]) -> None:
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job.get("bytes") is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["bytes"], job["bytes"]))
    if job.get("event"):
        kill_at(job["event"])
    if job.get("saves"):
        kill_when_saved(job["saves"])
    imatrix._SAVE_EVERY_S = 0.0  # what it has after each chunk is what it has after an hour
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # as deadly as SIGKILL
    signal.setitimer(signal.ITIMER_REAL, job.get("milliseconds", 0) / 1000)
    code = 1
    try:
        code = main(job["argv"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
