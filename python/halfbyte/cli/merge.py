"""Join the parts of a split model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from halfbyte.cli.common import human_bytes
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a part (-00001-of-0000N.gguf); the others lie beside it")
    parser.add_argument("output", metavar="OUT", help="the .gguf to write")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte import _core
    from halfbyte.quantize.parts import merge

    source = _core.GgufFile(arguments.input)
    if len(source.paths) < 2:
        raise InvalidArgumentError(f"{arguments.input} is no part of a split model: there is nothing to join.")
    merge(source, arguments.output)
    print(f"{arguments.output}  {len(source.tensors)} tensors, {human_bytes(Path(arguments.output).stat().st_size)}")
    return 0
