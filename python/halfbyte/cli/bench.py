"""Measure prefill and decode speed of a model.

halfbyte bench smollm2
halfbyte bench -m model.gguf -p 512 -n 64 -t 2 --json
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from halfbyte.cli.common import add_model_arguments, load_model, print_json
from halfbyte.errors import InvalidArgumentError
from halfbyte.llm import LLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "-p", "--n-prompt", type=int, default=512, metavar="N", help="prompt tokens (512; 0: no prefill test)"
    )
    parser.add_argument(
        "-n", "--n-gen", type=int, default=64, metavar="N", help="generated tokens (64; 0: no decode test)"
    )
    parser.add_argument("-d", "--depth", type=int, default=0, metavar="N", help="tokens already in the cache (0)")
    parser.add_argument(
        "-r", "--repetitions", type=int, default=3, metavar="N", help="runs of each test, after a warm-up (3)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    n_prompt, n_gen, depth = arguments.n_prompt, arguments.n_gen, arguments.depth
    if min(n_prompt, n_gen, depth) < 0 or arguments.repetitions < 1 or n_prompt + n_gen == 0:
        raise InvalidArgumentError("-p, -n and -d take counts (one of -p and -n above 0), -r at least 1.")
    if not arguments.ctx_size:
        arguments.ctx_size = depth + max(n_prompt, n_gen) + 16
    # Guessed tokens would measure the text, not the machine.
    with load_model(arguments, prefix_cache=depth > 0, prompt_lookup=False) as llm:
        tests = [("pp", n_prompt)] * (n_prompt > 0) + [("tg", n_gen)] * (n_gen > 0)
        results = [_measure(llm, kind, n, depth, arguments.repetitions) for kind, n in tests]
    if arguments.json:
        print_json(results)
        return 0
    for result in results:
        speed = result["tokens_per_second"]
        print(f"{result['test']:<10} {speed['median']:>9.1f} tokens/s  ({speed['min']:.1f} to {speed['max']:.1f})")
    return 0


def _measure(llm: LLM, kind: str, n: int, depth: int, repetitions: int) -> dict[str, Any]:
    speeds = [_one(llm, kind, n, depth, i) for i in range(repetitions + 1)][1:]
    name = f"{kind}{n}" + (f"@d{depth}" if depth else "")
    return {
        "test": name,
        "tokens_per_second": {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)},
    }


def _one(llm: LLM, kind: str, n: int, depth: int, seed: int) -> float:
    draw = random.Random(seed)
    n_vocab = llm.tokenizer.n_vocab
    start = [draw.randrange(n_vocab) for _ in range(max(1, depth))] if depth else []
    if kind == "pp":
        if start:
            llm.generate(start, temperature=0, max_tokens=0)  # read into the cache; only the rest is timed
        prompt = start + [draw.randrange(n_vocab) for _ in range(n)]
        before = time.perf_counter()
        llm.generate(prompt, temperature=0, max_tokens=0)
        return n / (time.perf_counter() - before)
    prompt = start or [draw.randrange(n_vocab)]
    output = llm.generate(prompt, temperature=0, max_tokens=n + 1, ignore_eos=True)
    return output.timing.decode_tps
