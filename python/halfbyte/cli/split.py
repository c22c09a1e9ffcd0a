"""Cut a model file into parts.

halfbyte split model.gguf model --max-size 2GiB
"""

from __future__ import annotations

import argparse

from halfbyte.cli.common import bar, human_bytes, print_json
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a .gguf file")
    parser.add_argument("prefix", metavar="PREFIX", help="parts are named PREFIX-00001-of-0000N.gguf")
    parser.add_argument("--max-size", metavar="SIZE", help="largest part, such as 2GiB")
    parser.add_argument("--max-tensors", type=int, metavar="N", help="most tensors of a part")
    parser.add_argument("--dry-run", action="store_true", help="only tell the parts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte import _core
    from halfbyte.quantize.parts import part_path, plan_parts, split
    from halfbyte.quantize.search import size_of

    if (arguments.max_size is None) == (arguments.max_tensors is None):
        raise InvalidArgumentError("split takes --max-size or --max-tensors.")
    if arguments.max_tensors is not None and arguments.max_tensors < 1:
        raise InvalidArgumentError(f"--max-tensors {arguments.max_tensors}: at least 1 is needed.")
    source = _core.GgufFile(arguments.input)
    max_bytes = size_of(arguments.max_size) if arguments.max_size else None
    parts = plan_parts(source, max_bytes=max_bytes, max_tensors=arguments.max_tensors)
    paths = [part_path(arguments.prefix, i, len(parts)) for i in range(1, len(parts) + 1)]
    if not arguments.dry_run:
        with bar("Writing") as advance:
            split(source, arguments.prefix, parts, advance)
    sizes = [sum(t.n_bytes for t in part) for part in parts]
    if arguments.json:
        print_json(
            [{"path": str(p), "tensors": len(t), "bytes": b} for p, t, b in zip(paths, parts, sizes, strict=True)]
        )
        return 0
    for path, part, size in zip(paths, parts, sizes, strict=True):
        print(f"{path}  {len(part)} tensors, {human_bytes(size)}")
    return 0
