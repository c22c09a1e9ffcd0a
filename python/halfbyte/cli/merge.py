"""Merge LoRA adapters into a model, or join the parts of a split model, into one GGUF file.

halfbyte merge model.gguf merged.gguf --lora adapter-folder
halfbyte merge part-00001-of-00003.gguf whole.gguf
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from halfbyte import _core
from halfbyte.adapters import parse_lora
from halfbyte.cli.common import bar, human_bytes
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="IN",
        help="a model's folder, a .gguf file, or a part (-00001-of-0000N.gguf) beside which the others lie",
    )
    parser.add_argument("output", metavar="OUT", help="the .gguf to write")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=X]",
        help="an adapter and its strength (may be repeated); without one the parts are joined",
    )
    parser.add_argument("--type", help="what a folder's matrices become: f16, q8_0, q4_k_m, ... (default: as they are)")
    parser.add_argument("--force", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> int:
    source, out = Path(arguments.input).expanduser(), Path(arguments.output)
    if arguments.lora and out.exists() and not arguments.force:
        raise InvalidArgumentError(f"{out} exists already.", hint="Choose another name, or add --force.")
    notes = _add_adapters(arguments, source, out) if arguments.lora else _join(source, out)
    print(f"{out}  {len(_core.GgufFile(str(out)).tensors)} tensors, {human_bytes(out.stat().st_size)}")
    for note in notes:
        print(f"Note: {note}.", file=sys.stderr)
    return 0


def _add_adapters(arguments: argparse.Namespace, source: Path, out: Path) -> list[str]:
    from halfbyte.convert.merge import plan_merge
    from halfbyte.convert.to_gguf import write_plan

    plan = plan_merge(source, parse_lora(arguments.lora), arguments.type)
    with bar("Merging") as advance:
        write_plan(plan, out, advance)
    return sorted({t.note for t in plan.tensors if t.note})


def _join(source: Path, out: Path) -> list[str]:
    from halfbyte.quantize.parts import merge

    file = None if source.is_dir() else _core.GgufFile(str(source))
    if file is None or len(file.paths) < 2:
        raise InvalidArgumentError(
            f"{source} is no part of a split model: there is nothing to join.",
            hint="To merge adapters, name them with --lora.",
        )
    merge(file, str(out))
    return []
