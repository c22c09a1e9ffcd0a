"""llama-cpp-python's low-level calls, so that only llama.cpp is timed. Flash attention and the largest micro-batch."""

from __future__ import annotations

import random
import sys
import time

import llama_cpp
import numpy as np
from protocol import serve

MAX_SEQUENCES = 32


def main() -> None:
    path, threads, n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp does not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 512, 512
    params.n_seq_max, params.kv_unified = MAX_SEQUENCES, True
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = 1
    context = llama_cpp.llama_init_from_model(model, params)
    memory = llama_cpp.llama_get_memory(context)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(512, 0, 1)
    draw = random.Random(1)

    def run(rows: list[tuple[int, int]]) -> None:
        """One step: a random token for each (sequence, position), logits of the last of each sequence."""
        batch.n_tokens = len(rows)
        for i, (sequence, position) in enumerate(rows):
            batch.token[i] = draw.randrange(1000, 20000)
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = i + 1 == len(rows) or rows[i + 1][0] != sequence
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")

    def read(n: int) -> None:
        for begin in range(0, n, 512):
            run([(0, position) for position in range(begin, min(n, begin + 512))])
        llama_cpp.llama_synchronize(context)

    def pick() -> None:
        """Greedy choice, as halfbyte's figures hold one too."""
        int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(n_vocab,)).argmax())

    def prefill(n: int) -> float:
        llama_cpp.llama_memory_clear(memory, True)
        start = time.perf_counter()
        read(n)
        return n / (time.perf_counter() - start)

    def decode(n: int, depth: int = 1) -> float:
        llama_cpp.llama_memory_clear(memory, True)
        read(depth)
        start = time.perf_counter()
        for i in range(n):
            run([(0, depth + i)])
            pick()
        return n / (time.perf_counter() - start)

    def together(n_sequences: int, n: int) -> float:
        llama_cpp.llama_memory_clear(memory, True)
        start = time.perf_counter()
        for i in range(n):
            run([(s, i) for s in range(n_sequences)])
            pick()
        return n_sequences * n / (time.perf_counter() - start)

    serve(f"llama-cpp-python {llama_cpp.__version__}", pp=prefill, tg=decode, batch=together)


if __name__ == "__main__":
    main()
