"""Delete models from the store.

halfbyte rm mine
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="as `halfbyte list` shows it")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import remove_stored

    for name in arguments.names:
        remove_stored(name)
        print(f"{name} deleted")
    return 0
