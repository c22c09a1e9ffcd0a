"""The loop that every peer runs: measurements asked for on standard input.

A test is a word and numbers, its answer tokens per second:
    pp N            read a prompt of N tokens
    tg N [DEPTH]    generate N tokens, DEPTH tokens in the cache before them
    batch S N       generate N tokens in each of S sequences together (all of them counted)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(version: str, weight_bytes: int | None = None, **tests: Callable[..., float]) -> None:
    """Answers until the input ends. A test that the peer does not offer is answered with null.

    weight_bytes: what one pass over the weights reads, where the engine tells.
    """
    print(json.dumps({"version": version, "weight_bytes": weight_bytes}), flush=True)
    for line in sys.stdin:
        kind, *numbers = line.split()
        test = tests.get(kind)
        speed = test(*map(int, numbers)) if test is not None else None
        print(json.dumps({"tokens_per_second": speed}), flush=True)
