"""The loop that every peer runs: measurements asked for on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(version: str, prefill: Callable[[int], float], decode: Callable[[int], float]) -> None:
    """Answers "pp N" and "tg N" with tokens per second until the input ends."""
    print(json.dumps({"version": version}), flush=True)
    for line in sys.stdin:
        kind, _, n = line.strip().partition(" ")
        speed = (prefill if kind == "pp" else decode)(int(n))
        print(json.dumps({"tokens_per_second": speed}), flush=True)
