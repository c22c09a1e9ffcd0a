"""Make a model file smaller.

halfbyte quantize model-f16.gguf model-q4.gguf Q4_K_M --imatrix imatrix.gguf
halfbyte quantize model-f16.gguf small.gguf --target-size 4.2GiB
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

from halfbyte.cli.common import bar, human_bytes, print_json
from halfbyte.errors import InvalidArgumentError

# Below this, a model without an importance matrix falls apart.
_NEEDS_IMPORTANCE = re.compile(r"IQ1_|IQ2_|IQ3_XXS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a .gguf file (F16, BF16 or F32 is best)")
    parser.add_argument("rest", nargs="*", metavar="[OUT] TYPE", help="the file to write, and its type, such as Q4_K_M")
    parser.add_argument("--imatrix", action="append", default=[], metavar="FILE", help="importance matrix (repeatable)")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="type of the tensors whose name matches",
    )
    parser.add_argument("--output-type", "--output-tensor-type", metavar="TYPE", help="type of the output matrix")
    parser.add_argument(
        "--embedding-type", "--token-embedding-type", metavar="TYPE", help="type of the token embedding"
    )
    parser.add_argument("--pure", action="store_true", help="one type for all matrices, no exceptions of the mix")
    parser.add_argument("--allow-requantize", action="store_true", help="quantize what is quantized already")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--target-size", metavar="SIZE", help="choose types so that the file fits, such as 4.2GiB")
    target.add_argument("--target-bpw", type=float, metavar="BITS", help="the same by bits per weight, such as 4.25")
    parser.add_argument("--dry-run", action="store_true", help="only tell what each tensor would become")
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="threads (0: all cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte import _core
    from halfbyte.hub import resolve_model
    from halfbyte.quantize import Importance, write_plan
    from halfbyte.quantize.plan import refuse_requantizing

    out, type_name = _outputs(arguments)
    source = _core.GgufFile(str(resolve_model(arguments.input)))
    importance = Importance.load_all(arguments.imatrix)
    plan = _plan(arguments, source, type_name, importance)
    if not arguments.allow_requantize and not arguments.dry_run:
        refuse_requantizing(plan)
    blind = sorted(
        {c.format for c in plan.choices if c.format != c.source_format and _NEEDS_IMPORTANCE.match(c.format)}
    )
    if importance is None and blind:
        print(f"{', '.join(blind)} without --imatrix lose much; halfbyte imatrix makes one.", file=sys.stderr)
    before = sum(t.n_bytes for t in source.tensors)
    start = time.monotonic()
    if out is not None:
        if out.exists() and any(out.samefile(path) for path in source.paths):
            raise InvalidArgumentError(f"{out} is the input.", hint="Give the output another name.")
        with bar("Quantizing") as advance:
            write_plan(source, plan, out, importance=importance, n_threads=arguments.threads, progress=advance)
    seconds = time.monotonic() - start
    facts = {
        "input_bytes": before,
        "output_bytes": plan.n_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "seconds": None if out is None else seconds,
        "tensors": [
            {"name": c.name, "shape": list(c.shape), "from": c.source_format, "to": c.format, "bytes": c.n_bytes}
            for c in plan.choices
        ],
    }
    if arguments.json:
        print_json(facts)
        return 0
    for note in sorted({c.note for c in plan.choices if c.note}):
        print(f"Note: {note}.", file=sys.stderr)
    if out is None:
        for c in plan.choices:
            print(
                f"{c.name:40} {'x'.join(map(str, c.shape)):>16} {c.source_format:>7} -> {c.format:7} {human_bytes(c.n_bytes):>10}"
            )
    print(f"{human_bytes(before)} -> {human_bytes(plan.n_bytes)} ({plan.bits_per_weight:.2f} bits per weight)"
          + ("" if out is None else f", {seconds:.1f} s"))  # fmt: skip
    return 0


def _outputs(arguments: argparse.Namespace) -> tuple[Path | None, str | None]:
    """The file to write (None for a dry run) and the type (None when a target chooses)."""
    words = list(arguments.rest)
    has_target = arguments.target_size is not None or arguments.target_bpw is not None
    type_name = words.pop() if words and not has_target else None
    no_type = type_name is None and not has_target
    if no_type or len(words) > 1 or (not words and not arguments.dry_run) or (has_target and arguments.pure):
        raise InvalidArgumentError(
            "quantize takes IN OUT TYPE, or IN OUT with --target-size or --target-bpw.",
            hint="For example: halfbyte quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M",
        )
    return None if arguments.dry_run else Path(words[0]), type_name


def _plan(arguments: argparse.Namespace, source: Any, type_name: str | None, importance: Any) -> Any:
    from halfbyte.quantize.plan import format_named, mix_named, overrides_of, plan_quantization

    overrides = overrides_of(arguments.tensor_type)
    head = format_named(arguments.output_type) if arguments.output_type else None
    embedding = format_named(arguments.embedding_type) if arguments.embedding_type else None
    if type_name is not None:
        return plan_quantization(
            source,
            mix_named(type_name),
            overrides=overrides,
            head=head,
            embedding=embedding,
            pure=arguments.pure,
            has_importance=importance is not None,
        )
    from halfbyte.quantize.search import bytes_at, fit_to_size, room_for_tensors, size_of

    if arguments.target_size is not None:
        target = room_for_tensors(source, size_of(arguments.target_size))
    else:
        target = bytes_at(source, arguments.target_bpw)
    with bar("Measuring", unit_bytes=False) as advance:
        return fit_to_size(
            source,
            target,
            importance=importance,
            overrides=overrides,
            head=head,
            embedding=embedding,
            n_threads=arguments.threads,
            progress=advance,
        )
