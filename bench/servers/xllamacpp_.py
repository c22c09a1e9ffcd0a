"""llama-server as the xllamacpp wheel carries it: MODEL THREADS SLOTS CONTEXT; prints its address, serves until the input ends."""

from __future__ import annotations

import sys

import xllamacpp


def main() -> None:
    model, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    # All slots share one cache, as halfbyte's requests do. It cannot set a request aside when the cache is full, as
    # halfbyte can, so it gets one that never is.
    params.kv_unified = True
    params.n_ctx = max(4 * context, 2048 * slots)
    params.port = 0
    params.warmup = True
    server = xllamacpp.Server(params)
    print(f"llama-server of xllamacpp {xllamacpp.__version__} at {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
