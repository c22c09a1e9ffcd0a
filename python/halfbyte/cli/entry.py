"""Where the command begins. Ctrl-C ends it without a word while it is still being imported."""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Runs the command line; returns its exit code."""
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so in the background
    if is_interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from halfbyte.cli.main import main as run

    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
