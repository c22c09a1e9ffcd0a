"""Delete what stopped downloads left in the store.

halfbyte prune
"""

from __future__ import annotations

import argparse

from halfbyte.cli.common import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import prune

    deleted = prune()
    if arguments.json:
        print_json([str(path) for path in deleted])
        return 0
    for path in deleted:
        print(f"{path} deleted")
    if not deleted:
        print("There is nothing to delete.")
    return 0
