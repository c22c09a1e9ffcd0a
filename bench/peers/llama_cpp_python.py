"""llama-cpp-python, low-level calls so that only the engine is timed. Flash attention and the largest micro-batch."""

from __future__ import annotations

import random
import sys
import time

import llama_cpp
from protocol import serve


def main() -> None:
    threads = int(sys.argv[2])
    llm = llama_cpp.Llama(
        sys.argv[1], n_ctx=int(sys.argv[3]), n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
        flash_attn=True, verbose=False,
    )  # fmt: skip
    draw = random.Random(1)

    def prefill(n: int) -> float:
        ids = [draw.randrange(1000, 20000) for _ in range(n)]
        llm.reset()
        start = time.perf_counter()
        llm.eval(ids)
        return n / (time.perf_counter() - start)

    def decode(n: int) -> float:
        llm.reset()
        llm.eval([draw.randrange(1000, 20000)])
        start = time.perf_counter()
        for _ in range(n):
            llm.eval([draw.randrange(1000, 20000)])
        return n / (time.perf_counter() - start)

    serve(f"llama-cpp-python {llama_cpp.__version__}", prefill, decode)


if __name__ == "__main__":
    main()
