"""List the models in the store.

halfbyte list
"""

from __future__ import annotations

import argparse
import time

from halfbyte.cli.common import human_bytes, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import ALIASES, list_stored

    models = list_stored()
    if arguments.json:
        print_json([{"name": m.name, "path": str(m.path), "bytes": m.n_bytes, "modified": m.modified} for m in models])
        return 0
    for m in models:
        print(
            f"{m.name:<20} {human_bytes(m.n_bytes):>10}  {time.strftime('%Y-%m-%d', time.localtime(m.modified))}  {m.path}"
        )
    missing = [a for a in ALIASES.values() if a.name not in {m.name for m in models}]
    if missing:
        print("Can be pulled: " + ", ".join(a.name for a in missing))
    return 0
