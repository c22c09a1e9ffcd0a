"""Tell what memory a model takes and whether this machine has it.

halfbyte fit smollm2 -c 8192
halfbyte fit owner/repo
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from halfbyte.cli.common import add_gpu_memory_argument, checked_utilization, human_bytes, print_json
from halfbyte.machine import best_context, estimate_memory, expected_speed

# A conversation's length that is asked for when nobody says, at most the model's.
_CONTEXT = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a .gguf file, a model's name, or owner/repo: all its quantizations, not downloaded"
    )
    parser.add_argument("-c", "--ctx-size", type=int, default=0, metavar="N", help="context in tokens (0: the model's)")
    parser.add_argument("-b", "--batch-size", type=int, default=512, metavar="N", help="prompt tokens of a step")
    parser.add_argument(
        "--kv-type", default="f16", choices=["f16", "bf16", "f32", "q8_0", "q4_0"], help="keys and values"
    )
    add_gpu_memory_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import ALIASES, find_stored, resolve_model
    from halfbyte.hub.sources.huggingface import is_reference

    reference = arguments.model
    if reference in ALIASES and ALIASES[reference].reference:
        reference = ALIASES[reference].reference
    is_remote = reference.startswith(("hf:", "hf.co/")) or is_reference(reference)
    if is_remote and not Path(reference).exists() and find_stored(arguments.model) is None:
        return _run_repository(arguments, reference)
    path = resolve_model(arguments.model)
    e = estimate_memory(
        path,
        n_ctx=arguments.ctx_size,
        n_batch=arguments.batch_size,
        kv_type=arguments.kv_type,
        gpu_memory_utilization=checked_utilization(arguments),
    )
    if arguments.json:
        print_json(e)
        return 0 if e["fits"] else 1
    print(f"{path}, context {e['n_ctx']} tokens, keys and values in {e['kv_type']}")
    print(f"  weights       {human_bytes(e['weight_bytes']):>10}")
    print(f"  keys, values  {human_bytes(e['kv_bytes']):>10}  {e['kv_formula']}")
    print(f"  work buffers  {human_bytes(e['buffer_bytes']):>10}")
    print(f"  together      {human_bytes(e['total_bytes']):>10}  of {human_bytes(e['available_bytes'])} available")
    if e["gpu"] is not None:
        print(f"  on the GPU    {_gpu_text(e['gpu'], e['n_layers'])}")
    print("It fits." if e["fits"] else f"It does not fit. {e['advice']}")
    return 0 if e["fits"] else 1


def _gpu_text(plan: dict[str, Any], n_layers: int) -> str:
    free = f"{human_bytes(plan['available_bytes'])} free"
    if plan["n_gpu_layers"] == n_layers:
        return f"all layers, {free}"
    if plan["n_cpu_moe"] is not None:
        return f"all layers with --n-cpu-moe {plan['n_cpu_moe']}, else the last {plan['n_gpu_layers']}, {free}"
    return f"the last {plan['n_gpu_layers']} of {n_layers} layers, {free}"


def _run_repository(arguments: argparse.Namespace, reference: str) -> int:
    found = _repository(arguments, reference)
    if arguments.json:
        print_json(found)
    else:
        _print_table(found)
    return 0 if found["best"] else 1


def _repository(arguments: argparse.Namespace, reference: str) -> dict[str, Any]:
    """Every variant's needs: of one the header is read, the others are taken in proportion to their sizes."""
    from halfbyte import _core
    from halfbyte.hub.fit import RepositoryHeaders

    with RepositoryHeaders(reference) as remote:
        e = estimate_memory(remote.path, n_ctx=1, n_batch=arguments.batch_size, kv_type=arguments.kv_type)
    n_ctx = arguments.ctx_size or min(_CONTEXT, e["n_ctx_train"])
    bandwidth = _core.memory_bandwidth(os.cpu_count() or 1)
    rows = []
    for variant in remote.variants:
        n_bytes = remote.n_bytes(variant)
        weights = int(e["weight_bytes"] * n_bytes / max(1, remote.n_bytes(remote.header_of)))
        total = weights + e["kv_bytes_per_token"] * n_ctx + e["buffer_bytes"]
        rows.append(
            {
                "quant": variant.quant or Path(variant.files[0]).stem,
                "file": variant.files[0],
                "file_bytes": n_bytes,
                "total_bytes": total,
                "fits": total <= e["available_bytes"],
                "largest_context": best_context(e, weights),
                "tokens_per_second": round(expected_speed(e, weights, bandwidth), 1),
            }
        )
    fitting = [row["quant"] for row in rows if row["fits"]]
    return {
        "repository": remote.name,
        "n_ctx": n_ctx,
        "kv_type": arguments.kv_type,
        "kv_bytes_per_token": e["kv_bytes_per_token"],
        "available_bytes": e["available_bytes"],
        "bandwidth_bytes_per_second": bandwidth,
        "variants": rows,
        "best": fitting[-1] if fitting else "",
    }


def _print_table(found: dict[str, Any]) -> None:
    width = max(8, *(len(row["quant"]) for row in found["variants"]))
    print(f"{found['repository']}, context {found['n_ctx']} tokens, {human_bytes(found['available_bytes'])} available")
    print(f"{'':<{width}} {'file':>10} {'needs':>10} {'longest context':>16} {'tokens/s, at most':>18}")
    for row in found["variants"]:
        speed = f"{row['tokens_per_second']:.1f}" if row["fits"] else "does not fit"
        sizes = f"{human_bytes(row['file_bytes']):>10} {human_bytes(row['total_bytes']):>10}"
        print(f"{row['quant']:<{width}} {sizes} {row['largest_context']:>16} {speed:>18}")
    best = found["best"]
    hint = f"{best} is the best that fits: halfbyte run {found['repository']}:{best}"
    print(hint if best else "None of them fits. Choose a smaller model.")
