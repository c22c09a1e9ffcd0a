"""Speed of synthetic models on the GPU beside the card's own bounds. bench/gpu.sh builds what this needs and calls it.

Decoding is bound by memory: bytes that a step must read (weights once, of the experts those that some row chooses, keys
and values of every sequence) over the measured copy rate. Prompts are bound by arithmetic: two operations a weight and token
over the measured bf16 rate of the tensor cores. Models are made in memory, a matrix at a time: nothing is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic

from halfbyte import _core

# What --dry-run reports of a card that is not there: round numbers, so that nobody takes them for measured ones.
NO_CARD = {"name": "no card (dry run)", "copy_bytes_per_second": 1e12, "bf16_flops": 1e14, "int8_ops": 2e14}
DRY = {"n_layers": 2, "n_embd": 256, "n_heads": 4, "n_kv_heads": 2, "n_ff": 256, "n_vocab": 512, "head_dim": 64}
MODELS = ["llama-3.2-1b", "llama-3.1-8b", "qwen3-30b-a3b"]
MIXES = ["Q4_K_M", "Q8_0", "Q4_0"]
DECODE_TOKENS = 64


def generate(engine: Any, prompts: list[list[int]], n: int) -> float:
    """Seconds that n tokens after each prompt take, all prompts at once."""
    mailbox, params = _core.Mailbox(), _core.SamplingParams(temperature=0)
    start = time.perf_counter()
    for prompt in prompts:
        engine.submit(prompt, params, mailbox, max_tokens=n)
    n_running = len(prompts)
    while n_running:
        n_running -= sum(bool(event["finish"]) for event in mailbox.take(60))
    return time.perf_counter() - start


def decode(engine: Any, batch: int, depth: int) -> float:
    """Seconds of a decoding step of `batch` sequences with `depth` tokens behind each."""
    prompts = [[(7 * i + 31 * b) % 250 for i in range(depth)] for b in range(batch)]
    generate(engine, prompts, 4)  # records the step, fills the prefix cache
    few = min(generate(engine, prompts, 4) for _ in range(2))
    many = min(generate(engine, prompts, 4 + DECODE_TOKENS) for _ in range(2))
    return (many - few) / DECODE_TOKENS


def prefill(engine: Any, n: int) -> float:
    """Seconds of a prompt of n tokens that no earlier one begins like."""
    return min(generate(engine, [[(11 * i + 17 * (attempt + n)) % 250 for i in range(n)]], 1) for attempt in range(3))


class Work:
    """What a model's steps must read and compute."""

    def __init__(self, shape: synthetic.Shape, tensors: list[tuple[str, str, list[int], Any]], config: Any) -> None:
        self.shape = shape
        self.dense_bytes = self.expert_bytes = self.weights_of_token = 0.0
        for name, kind, axes, _ in tensors:
            n_weights = 1
            for axis in axes:
                n_weights *= axis
            n_bytes = n_weights / synthetic.FORMATS[kind]["block_weights"] * synthetic.FORMATS[kind]["block_bytes"]
            if "_exps." in name:
                self.expert_bytes += n_bytes
                self.weights_of_token += n_weights * shape.n_used / shape.n_experts
            elif len(axes) > 1 and (shape.tied or name != "token_embd.weight"):
                self.dense_bytes += n_bytes
                self.weights_of_token += n_weights if name.startswith("blk.") else 0
        self.kv_bytes = 2 * sum(heads * (config["head_dim"] + config["value_dim"]) for heads in config["n_kv_heads"])

    def decode_bytes(self, batch: int, depth: int) -> float:
        """Rows choose experts as good as independently, so a batch reads the union of their choices."""
        share = 1 - (1 - self.shape.n_used / self.shape.n_experts) ** batch if self.shape.n_experts else 0.0
        return self.dense_bytes + share * self.expert_bytes + batch * self.kv_bytes * depth

    def prompt_operations(self, n: int) -> float:
        return 2 * self.weights_of_token * n


def measure(shape: synthetic.Shape, mix: str, rates: dict[str, Any], shrink: int = 1) -> list[dict[str, Any]]:
    """Rows of the table for one model."""
    metadata, tensors = synthetic.model(shape, mix)
    on_gpu = rates is not NO_CARD
    model = _core.Model.assemble("synthetic", metadata, tensors, n_gpu_layers=-1 if on_gpu else 0)
    if on_gpu and model.n_gpu_layers != shape.n_layers:
        raise MemoryError(f"it does not fit the card whole: {model.n_gpu_layers} of {shape.n_layers} layers do")
    work, rows = Work(shape, tensors, model.config), []
    # Guessed tokens would be measured as computed ones.
    engine = _core.Engine(model, n_ctx=17408 // shrink, n_batch=2048, prompt_lookup=False)
    try:
        for batch, depth in ((1, 16), (8, 16), (64, 16), (1, 16384 // shrink)):
            seconds = decode(engine, batch, depth)
            of_bound = work.decode_bytes(batch, depth) / rates["copy_bytes_per_second"] / seconds
            test = {"test": f"decode x{batch} at {depth}", "tokens_per_second": batch / seconds, "of_bound": of_bound}
            rows.append(test)
        for n in (512 // shrink, 4096 // shrink):
            seconds = prefill(engine, n)
            of_bound = work.prompt_operations(n) / rates["bf16_flops"] / seconds
            rows.append({"test": f"prompt of {n}", "tokens_per_second": n / seconds, "of_bound": of_bound})
    finally:
        engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    card = parser.add_mutually_exclusive_group(required=True)
    card.add_argument("--rates", type=Path, help="the program made of gpu_rates.cu")
    card.add_argument(
        "--dry-run", action="store_true", help="every step on the CPU, short, with tiny models and no bounds"
    )
    parser.add_argument("--model", action="append", choices=sorted(synthetic.SHAPES), help="may be repeated")
    parser.add_argument("--mix", action="append", help="may be repeated")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further model when these are over")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args()
    start, rates = time.monotonic(), NO_CARD
    if not arguments.dry_run:
        rates = json.loads(subprocess.run([arguments.rates], check=True, capture_output=True, text=True).stdout)
    print(
        f"{rates['name']}: copies {rates['copy_bytes_per_second'] / 1e9:.0f} GB/s,"
        f" bf16 {rates['bf16_flops'] / 1e12:.0f} TFLOP/s, int8 {rates['int8_ops'] / 1e12:.0f} TOP/s (mma.sync)\n"
    )
    print(f"{'model':14} {'mix':8} {'test':20} {'tokens/s':>10} {'of bound':>9}")
    results = []
    for mix in arguments.mix or MIXES:
        for name in arguments.model or MODELS:
            shape = synthetic.SHAPES[name]
            if arguments.dry_run:
                shape = replace(shape, **DRY, n_experts=min(shape.n_experts, 16))
            if time.monotonic() - start > arguments.seconds:
                print(f"{name:14} {mix:8} left out: the time is over")
                continue
            try:
                rows = measure(shape, mix, rates, shrink=32 if arguments.dry_run else 1)
            except MemoryError as problem:  # of this card; the next model may be smaller
                print(f"{name:14} {mix:8} left out: {problem}")
                continue
            for row in rows:
                results.append({"model": name, "mix": mix, **row})
                print(f"{name:14} {mix:8} {row['test']:20} {row['tokens_per_second']:10.1f} {row['of_bound']:9.0%}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"rates": rates, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
