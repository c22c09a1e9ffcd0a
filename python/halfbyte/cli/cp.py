"""Give a model of the store a second name; its files are shared.

halfbyte cp smollm2 mine
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="as `halfbyte list` shows it")
    parser.add_argument("target", help="the second name")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import copy_stored

    model = copy_stored(arguments.source, arguments.target)
    print(f"{arguments.source} copied to {model.name}")
    return 0
