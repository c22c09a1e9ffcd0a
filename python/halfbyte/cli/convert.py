"""Convert a Hugging Face folder to a GGUF file, or a GGUF file to a folder.

halfbyte convert my-model-folder model.gguf --type q8_0
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from halfbyte.cli.common import bar, human_bytes, print_json
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a model's folder, or a .gguf file")
    parser.add_argument("out", nargs="?", help="the .gguf file (or, for a GGUF source, the folder) to write")
    parser.add_argument(
        "--type",
        help="what the matrices become: any type or mix of halfbyte quantize, such as f16 or q4_k_m; in a folder made of "
        "GGUF f32, f16 or bf16 (default: as they are)",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    source = Path(arguments.source).expanduser()
    to_gguf = source.is_dir()
    out = (
        Path(arguments.out)
        if arguments.out
        else source.with_suffix("")
        if not to_gguf
        else Path(f"{source.resolve().name}.gguf")
    )
    if out.exists() and not arguments.force and not arguments.dry_run:
        raise InvalidArgumentError(f"{out} exists already.", hint="Choose another name, or add --force.")
    if to_gguf:
        from halfbyte.convert.to_gguf import plan_gguf, write_plan

        plan = plan_gguf(source, arguments.type)
        if not arguments.dry_run:
            with bar("Converting") as advance:
                write_plan(plan, out, advance)
    else:
        from halfbyte.convert.to_folder import plan_hf, write_folder

        plan = plan_hf(source, arguments.type)
        if not arguments.dry_run:
            with bar("Converting") as advance:
                write_folder(plan, out, advance)
    kinds = Counter(t.format for t in plan.tensors)
    size = sum(t.n_bytes for t in plan.tensors)
    notes = sorted({t.note for t in plan.tensors if t.note} | set(plan.notes))
    if arguments.json:
        print_json(
            {"path": str(out), "architecture": plan.family.arch, "bytes": size, "tensors": dict(kinds), "notes": notes}
        )
        return 0
    verb = "would hold" if arguments.dry_run else "holds"
    print(f"{out} {verb} {human_bytes(size)}: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}.")
    for note in notes:
        print(f"Note: {note}.", file=sys.stderr)
    return 0
