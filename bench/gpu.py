"""Speed of synthetic models on the GPU beside the card's own bounds. bench/gpu.sh builds what this needs and calls it.

Decoding is bound by memory: bytes that a step must read (weights once, keys and values of every sequence) over the measured
copy rate. Prompts are bound by arithmetic: two operations a weight and token over the measured bf16 rate of the tensor cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import synthetic

from halfbyte import LLM, SamplingParams, _core

# What --dry-run reports of a card that is not there: round numbers, so that nobody takes them for measured ones.
NO_CARD = {"name": "no card (dry run)", "copy_bytes_per_second": 1e12, "bf16_flops": 1e14, "int8_ops": 2e14}
DRY_SHAPE = synthetic.Shape("llama", 2, 256, 4, 2, 512, 512, tied=True)
MODELS = ["llama-3.2-1b", "llama-3.1-8b"]
MIXES = ["Q4_K_M", "Q8_0", "Q4_0"]
DECODE_TOKENS = 64


def decode(llm: LLM, batch: int, depth: int) -> float:
    """Seconds of a decoding step of `batch` sequences with `depth` tokens behind each."""

    def run(n: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=n, ignore_eos=True)
        prompts = [[(7 * i + 31 * b) % 250 for i in range(depth)] for b in range(batch)]
        start = time.perf_counter()
        llm.generate(prompts, params)
        return time.perf_counter() - start

    run(4)  # records the step, fills the prefix cache
    few = min(run(4) for _ in range(2))
    many = min(run(4 + DECODE_TOKENS) for _ in range(2))
    return (many - few) / DECODE_TOKENS


def prefill(llm: LLM, n: int) -> float:
    """Seconds of a prompt of n tokens."""
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    best = 1e9
    for attempt in range(3):
        start = time.perf_counter()
        llm.generate([(11 * i + 17 * attempt) % 250 for i in range(n)], params)
        best = min(best, time.perf_counter() - start)
    return best


def measure(path: Path, rates: dict[str, Any], shrink: int = 1) -> list[dict[str, Any]]:
    """Rows of the table for one model."""
    file = _core.GgufFile(str(path))
    tied = not any(t.name == "output.weight" for t in file.tensors)
    read = [t for t in file.tensors if len(t.shape) > 1 and (tied or t.name != "token_embd.weight")]
    weight_bytes = sum(t.n_bytes for t in read)
    n_weights = sum(t.shape[0] * t.shape[1] for t in read if t.name not in ("output.weight", "token_embd.weight"))
    rows = []
    with LLM(path, n_ctx=17408 // shrink, n_batch=2048, prefix_cache=True) as llm:
        if rates is not NO_CARD and llm._weights.n_gpu_layers != llm.config["n_layers"]:
            raise SystemExit(
                f"{path.name} does not fit the card whole: {_core.gpu_info()['problem'] or 'too little memory'}"
            )
        config = llm.config
        kv_bytes = 2 * sum(h * (config["head_dim"] + config["value_dim"]) for h in config["n_kv_heads"])
        for batch, depth in ((1, 16), (8, 16), (64, 16), (1, 16384 // shrink)):
            seconds = decode(llm, batch, depth)
            bound = (weight_bytes + batch * kv_bytes * depth) / rates["copy_bytes_per_second"]
            rows.append(
                {
                    "test": f"decode x{batch} at {depth}",
                    "tokens_per_second": batch / seconds,
                    "of_bound": bound / seconds,
                }
            )
        for n in (512 // shrink, 4096 // shrink):
            seconds = prefill(llm, n)
            rows.append(
                {
                    "test": f"prompt of {n}",
                    "tokens_per_second": n / seconds,
                    "of_bound": 2 * n_weights * n / rates["bf16_flops"] / seconds,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    card = parser.add_mutually_exclusive_group(required=True)
    card.add_argument("--rates", type=Path, help="the program made of gpu_rates.cu")
    card.add_argument(
        "--dry-run", action="store_true", help="every step on the CPU, short, with a tiny model and no bounds"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where models are written")
    parser.add_argument("--model", action="append", choices=sorted(synthetic.SHAPES), help="may be repeated")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args()
    rates = NO_CARD
    if not arguments.dry_run:
        rates = json.loads(subprocess.run([arguments.rates], check=True, capture_output=True, text=True).stdout)
    print(
        f"{rates['name']}: copies {rates['copy_bytes_per_second'] / 1e9:.0f} GB/s, bf16 {rates['bf16_flops'] / 1e12:.0f} TFLOP/s,"
        f" int8 {rates['int8_ops'] / 1e12:.0f} TOP/s (mma.sync)\n"
    )
    print(f"{'model':14} {'mix':8} {'test':20} {'tokens/s':>10} {'of bound':>9}")
    results = []
    for model in ["tiny, dry run"] if arguments.dry_run else arguments.model or MODELS:
        for mix in MIXES:
            path = arguments.folder / f"{model.partition(',')[0]}-{mix}.gguf"
            synthetic.write(DRY_SHAPE if arguments.dry_run else synthetic.SHAPES[model], mix, str(path))
            for row in measure(path, rates, shrink=32 if arguments.dry_run else 1):
                results.append({"model": model, "mix": mix, **row})
                print(
                    f"{model:14} {mix:8} {row['test']:20} {row['tokens_per_second']:10.1f} {row['of_bound']:9.0%}",
                    flush=True,
                )
            path.unlink()
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"rates": rates, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
