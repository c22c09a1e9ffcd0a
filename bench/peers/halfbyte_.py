"""halfbyte itself."""

from __future__ import annotations

import random
import sys
import time

from protocol import serve

import halfbyte


def main() -> None:
    llm = halfbyte.LLM(sys.argv[1], n_ctx=int(sys.argv[3]), n_threads=int(sys.argv[2]), prefix_cache=False)
    draw = random.Random(1)

    def tokens(n: int) -> list[int]:
        return [draw.randrange(1000, 20000) for _ in range(n)]

    def prefill(n: int) -> float:
        ids, start = tokens(n), time.perf_counter()
        llm.generate(ids, temperature=0, max_tokens=0)
        return n / (time.perf_counter() - start)

    def decode(n: int) -> float:
        output = llm.generate(tokens(1), temperature=0, max_tokens=n + 1, ignore_eos=True)
        return output.timing.decode_tps

    serve(halfbyte.__version__, prefill, decode)


if __name__ == "__main__":
    main()
