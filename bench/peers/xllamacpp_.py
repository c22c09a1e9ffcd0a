"""xllamacpp: llama.cpp as a pip user gets it, asked through its in-process server and timed by its own counters."""

from __future__ import annotations

import random
import sys

import xllamacpp
from protocol import serve


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.cpuparams.n_threads = int(sys.argv[2])
    params.cpuparams_batch.n_threads = int(sys.argv[2])
    params.n_ctx = int(sys.argv[3])
    params.n_batch = params.n_ubatch = 512
    params.n_parallel = 1
    params.warmup = True
    server = xllamacpp.Server(params)
    draw = random.Random(1)

    def complete(prompt: list[int], n: int) -> dict[str, float]:
        request = {"prompt": prompt, "n_predict": n, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(request)
        timings: dict[str, float] = answer["timings"]
        return timings

    def prefill(n: int) -> float:
        return complete([draw.randrange(1000, 20000) for _ in range(n)], 1)["prompt_per_second"]

    def decode(n: int, depth: int = 1) -> float:
        return complete([draw.randrange(1000, 20000) for _ in range(depth)], n)["predicted_per_second"]

    serve(f"xllamacpp {xllamacpp.__version__}", pp=prefill, tg=decode)


if __name__ == "__main__":
    main()
