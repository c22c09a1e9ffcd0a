"""halfbyte itself."""

from __future__ import annotations

import random
import sys
import time

from protocol import serve

import halfbyte


def main() -> None:
    # No guessed tokens: every peer computes each token by itself.
    llm = halfbyte.LLM(sys.argv[1], n_ctx=int(sys.argv[3]), n_threads=int(sys.argv[2]), prompt_lookup=False)
    draw = random.Random(1)

    def tokens(n: int) -> list[int]:
        return [draw.randrange(1000, 20000) for _ in range(n)]

    def prefill(n: int) -> float:
        ids, start = tokens(n), time.perf_counter()
        llm.generate(ids, temperature=0, max_tokens=0)
        return n / (time.perf_counter() - start)

    def decode(n: int, depth: int = 1) -> float:
        output = llm.generate(tokens(depth), temperature=0, max_tokens=n + 1, ignore_eos=True)
        return output.timing.decode_tps

    def batch(n_sequences: int, n: int) -> float:
        prompts = [tokens(1) for _ in range(n_sequences)]
        start = time.perf_counter()
        llm.generate(prompts, temperature=0, max_tokens=n, ignore_eos=True)
        return n_sequences * n / (time.perf_counter() - start)

    serve(halfbyte.__version__, llm._weights.packed_bytes, pp=prefill, tg=decode, batch=batch)


if __name__ == "__main__":
    main()
