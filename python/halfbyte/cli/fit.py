"""Tell what memory a model takes and whether this machine has it."""

from __future__ import annotations

import argparse

from halfbyte.cli.common import human_bytes, print_json
from halfbyte.machine import estimate_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .gguf file or a model's name")
    parser.add_argument("-c", "--ctx-size", type=int, default=0, metavar="N", help="context in tokens (0: the model's)")
    parser.add_argument("-b", "--batch-size", type=int, default=512, metavar="N", help="prompt tokens of a step")
    parser.add_argument(
        "--kv-type", default="f16", choices=["f16", "bf16", "f32", "q8_0", "q4_0"], help="keys and values"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import resolve_model

    path = resolve_model(arguments.model)
    e = estimate_memory(path, n_ctx=arguments.ctx_size, n_batch=arguments.batch_size, kv_type=arguments.kv_type)
    if arguments.json:
        print_json(e)
        return 0 if e["fits"] else 1
    print(f"{path}, context {e['n_ctx']} tokens, keys and values in {e['kv_type']}")
    print(f"  weights       {human_bytes(e['weight_bytes']):>10}")
    print(f"  keys, values  {human_bytes(e['kv_bytes']):>10}  {e['kv_formula']}")
    print(f"  work buffers  {human_bytes(e['buffer_bytes']):>10}")
    print(f"  together      {human_bytes(e['total_bytes']):>10}  of {human_bytes(e['available_bytes'])} available")
    print("It fits." if e["fits"] else f"It does not fit. {e['advice']}")
    return 0 if e["fits"] else 1
