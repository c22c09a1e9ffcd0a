"""Speed of synthetic models on the GPU beside the card's own bounds. bench/gpu.sh builds what this needs and calls it.

Decoding is bound by memory: bytes that a step must read (weights once, of the experts those that some row chooses, keys
and values of every sequence) over the measured copy rate. Prompts are bound by arithmetic: two operations a weight and token
over the measured bf16 rate of the tensor cores. Models are made in memory, a matrix at a time: nothing is written.

Each model runs in a process of its own, within a limit of time: one that fails, hangs or breaks the card's state costs its
own remaining rows and nothing else. Rows are printed, and written to --out, as they come.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic

from halfbyte import _core
from halfbyte.machine import kv_numbers

# What --dry-run reports of a card that is not there: round numbers, so that nobody takes them for measured ones.
NO_CARD = {"name": "no card (dry run)", "copy_bytes_per_second": 1e12, "bf16_flops": 1e14, "int8_ops": 2e14}
DRY = {"n_layers": 2, "n_embd": 256, "n_heads": 4, "n_kv_heads": 2, "n_ff": 256, "n_vocab": 512, "head_dim": 64}
MODELS = ["llama-3.2-1b", "llama-3.1-8b", "qwen3-30b-a3b"]
MIXES = ["Q4_K_M", "Q8_0", "Q4_0"]
DECODE_TOKENS = 64
Row = dict[str, Any]


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
        self.kv_bytes = 2 * sum(kv_numbers(config))

    def decode_bytes(self, batch: int, depth: int) -> float:
        """Rows choose experts as good as independently, so a batch reads the union of their choices."""
        share = 1 - (1 - self.shape.n_used / self.shape.n_experts) ** batch if self.shape.n_experts else 0.0
        return self.dense_bytes + share * self.expert_bytes + batch * self.kv_bytes * depth

    def prompt_operations(self, n: int) -> float:
        return 2 * self.weights_of_token * n


def measure(shape: synthetic.Shape, mix: str, rates: dict[str, Any], n_gpu_layers: int, shrink: int) -> Iterator[Row]:
    """Rows of the table for one model, as they come. n_gpu_layers: -1 for all, which must fit."""
    metadata, tensors = synthetic.model(shape, mix)
    n_ctx, n_batch = 17408 // shrink, 2048 // shrink
    budget = _core.GpuBudget(n_ctx=n_ctx, n_batch=n_batch)
    model = _core.Model.assemble("synthetic", metadata, tensors, n_gpu_layers=n_gpu_layers, gpu_budget=budget)
    if n_gpu_layers and model.n_gpu_layers != shape.n_layers:
        raise MemoryError(f"it does not fit the card whole: {model.n_gpu_layers} of {shape.n_layers} layers do")
    work = Work(shape, tensors, model.config)
    # Guessed tokens would be measured as computed ones.
    engine = _core.Engine(model, n_ctx=n_ctx, n_batch=n_batch, prompt_lookup=False)
    try:
        for batch, depth in ((1, 16), (8, 16), (64, 16), (1, 16384 // shrink)):
            seconds = decode(engine, batch, depth)
            of_bound = work.decode_bytes(batch, depth) / rates["copy_bytes_per_second"] / seconds
            yield {"test": f"decode x{batch} at {depth}", "tokens_per_second": batch / seconds, "of_bound": of_bound}
        for n in (512 // shrink, 4096 // shrink):
            seconds = prefill(engine, n)
            of_bound = work.prompt_operations(n) / rates["bf16_flops"] / seconds
            yield {"test": f"prompt of {n}", "tokens_per_second": n / seconds, "of_bound": of_bound}
    finally:
        engine.close()


def run_one(name: str, mix: str, rates: dict[str, Any], arguments: argparse.Namespace) -> None:
    """What a child does: a line of JSON for each row, or for what went wrong."""
    shape, is_dry = synthetic.SHAPES[name], arguments.dry_run
    if is_dry:
        shape = replace(shape, **DRY, n_experts=min(shape.n_experts, 16))
    if arguments.library is not None:
        _core.testing.open_gpu_library(str(arguments.library))
    try:
        n_gpu_layers = 0 if is_dry and arguments.library is None else -1
        for row in measure(shape, mix, rates, n_gpu_layers, 128 if is_dry else 1):
            print(json.dumps(row), flush=True)
    except Exception as problem:  # of this model; the next one may do
        print(json.dumps({"problem": f"{problem}"}), flush=True)


def rows_of_child(command: list[str], seconds: float) -> Iterator[Row]:
    """What run_one() prints in another process; one row more says what ended it early."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + seconds
    try:
        while line := lines.get(timeout=max(0.1, deadline - time.monotonic())):
            yield json.loads(line)
        code = child.wait()
        if code:
            yield {"problem": f"its process ended with {code}"}
    except queue.Empty:
        yield {"problem": f"stopped after {seconds:.0f} s"}
    finally:
        child.kill()
        child.wait()


def measured_rates(program: Path | None) -> dict[str, Any]:
    if program is None:
        return NO_CARD
    result = subprocess.run([program], check=True, capture_output=True, text=True, timeout=120)
    rates: dict[str, Any] = json.loads(result.stdout)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    card = parser.add_mutually_exclusive_group(required=True)
    card.add_argument("--rates", type=Path, help="the program made of gpu_rates.cu")
    card.add_argument(
        "--dry-run", action="store_true", help="every step on the CPU, short, with tiny models and no bounds"
    )
    parser.add_argument("--library", type=Path, help="another GPU backend than the installed one, as tests make it")
    parser.add_argument("--model", action="append", choices=sorted(synthetic.SHAPES), help="may be repeated")
    parser.add_argument("--mix", action="append", help="may be repeated")
    parser.add_argument("--seconds", type=float, default=600, help="for all models together")
    parser.add_argument("--out", type=Path, help="also write JSON here, again after each row")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "MIX", "RATES"), help=argparse.SUPPRESS)  # for run_one()
    arguments = parser.parse_args()
    if arguments.one:
        name, mix, given = arguments.one
        return run_one(name, mix, json.loads(given), arguments)
    start, rates = time.monotonic(), measured_rates(arguments.rates)
    print(
        f"{rates['name']}: copies {rates['copy_bytes_per_second'] / 1e9:.0f} GB/s,"
        f" bf16 {rates['bf16_flops'] / 1e12:.0f} TFLOP/s, int8 {rates['int8_ops'] / 1e12:.0f} TOP/s (mma.sync)\n"
    )
    print(f"{'model':14} {'mix':8} {'test':20} {'tokens/s':>10} {'of bound':>9}")
    results: list[dict[str, Any]] = []
    models = [(name, mix) for mix in arguments.mix or MIXES for name in arguments.model or MODELS]
    for i, (name, mix) in enumerate(models):
        left = arguments.seconds - (time.monotonic() - start)
        # No model may take more than twice its part of what is left.
        limit = min(left, 2 * left / (len(models) - i))
        if limit < 5:
            print(f"{name:14} {mix:8} left out: the time is over", flush=True)
            continue
        command = [sys.executable, *sys.argv, "--one", name, mix, json.dumps(rates)]
        for row in rows_of_child(command, limit):
            results.append({"model": name, "mix": mix, **row})
            if "problem" in row:
                print(f"{name:14} {mix:8} not measured further: {row['problem']}", flush=True)
            else:
                figures = f"{row['tokens_per_second']:10.1f} {row['of_bound']:9.0%}"
                print(f"{name:14} {mix:8} {row['test']:20} {figures}", flush=True)
            if arguments.out is not None:
                text = json.dumps({"rates": rates, "results": results}, indent=2) + "\n"
                beside = arguments.out.with_suffix(".part")
                beside.write_text(text)
                beside.replace(arguments.out)


if __name__ == "__main__":
    main()
