"""What lies around the kernels: loading, its memory, tokenizing, and the sampler chain's share of a step.

python bench/ends.py MODEL.gguf ... [-t 2]

Loads are from the page cache; memory is the most that the process held beside the file's own pages.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from halfbyte import LLM, _core

#: The samplers people turn on together; top_k=0 leaves the whole vocabulary to the stages after it.
CHAINS = {
    "defaults": {},
    "greedy": {"temperature": 0},
    "penalties": {"repeat_penalty": 1.1, "presence_penalty": 0.5},
    "no top-k": {"top_k": 0, "top_p": 0.9, "min_p": 0.0},
}
N_VOCAB = 262144


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("-t", type=int, default=_core.cpu_info()["cores"], help="threads")
    parser.add_argument("--load-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load_only:
        print(*measure_load(arguments.models[0], arguments.t))
        return
    print("| model | bytes | load, s | memory over the file | 1 MB of text, s | step, ms |")
    print("| --- |" + " ---: |" * 5)
    for model in arguments.models:
        print(model_row(model, arguments.t), flush=True)
    print(f"\n| chain of {N_VOCAB} tokens | ms |\n| --- | ---: |")
    for name, options in CHAINS.items():
        print(f"| {name} | {1000 * chain_seconds(options):.3f} |", flush=True)


def model_row(model: str, threads: int) -> str:
    size = Path(model).stat().st_size
    command = [sys.executable, __file__, model, "-t", str(threads), "--load-only"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(4)][1:]
    seconds, memory = (statistics.median(float(run[i]) for run in runs) for i in (0, 1))
    llm = LLM(model, n_ctx=512, n_threads=threads, prompt_lookup=False)
    text = "\n".join(pydoc_data.topics.topics.values())
    text = (text * (2**20 // len(text) + 1))[: 2**20]
    tokenize = median_seconds(lambda: llm.tokenize(text), 3)
    speed = llm.generate([1], temperature=0, max_tokens=65, ignore_eos=True).timing.decode_tps
    return (
        f"| {Path(model).name} | {size} | {seconds:.2f} | {memory / size:.2f} | {tokenize:.2f} | {1000 / speed:.2f} |"
    )


def measure_load(model: str, threads: int) -> tuple[float, int]:
    """Seconds until LLM() is ready, and the most anonymous bytes meanwhile less those before."""
    before = most = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    llm = LLM(model, n_ctx=128, n_threads=threads)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    llm.close()
    return seconds, most - before


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status does not tell RssAnon")


def chain_seconds(options: dict[str, float]) -> float:
    logits = np.random.default_rng(1).standard_normal(N_VOCAB, dtype=np.float32) * 4
    generated = list(range(0, 5000, 7))
    chain = _core.Chain(_core.SamplingParams(seed=1, **options), N_VOCAB)
    return median_seconds(lambda: chain.sample(logits, [], generated), 50)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
