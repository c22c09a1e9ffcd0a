"""Micro-benchmarks: each matrix kernel and attention beside its bound, as the machine gives it in the same run.

python bench/kernels.py [--level avx512] [-t 2] [--formats Q4_K,Q6_K]

One token is bound by memory: GB/s of packed weights, from a matrix larger than the caches. Many are bound by the
integer dots: GOP/s, beside a loop of nothing but dots.
"""

from __future__ import annotations

import argparse

import numpy as np

from halfbyte import _core
from halfbyte._core import testing

FORMATS = "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,IQ4_NL,IQ4_XS,MXFP4,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,F16"
# (query heads, KV heads, head_dim) of SmolLM2-135M, Qwen2.5-0.5B, Llama-3.2-1B and Gemma 3 270M
HEADS = [(9, 3, 64), (14, 2, 64), (32, 8, 64), (4, 1, 256)]


def main() -> None:
    info = _core.cpu_info()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default=info["level"], choices=info["supported"])
    parser.add_argument("-t", type=int, default=info["cores"])
    parser.add_argument("--formats", default=FORMATS)
    arguments = parser.parse_args()
    bandwidth, rate = _core.memory_bandwidth(arguments.t) / 1e9, _core.dot_rate(arguments.level, arguments.t) / 1e9
    print(f"{info['name']}, {arguments.level}, {arguments.t} threads: {bandwidth:.1f} GB/s, {rate:.0f} GOP/s\n")
    known = {f["name"]: f for f in _core.formats()}
    print("| format | 1 token, GB/s | of memory | 8 tokens, GOP/s | 32 | 512 | of the dots |")
    print("| --- |" + " ---: |" * 6)
    for name in arguments.formats.split(","):
        print(matrix_row(known[name], arguments.level, arguments.t, bandwidth, rate), flush=True)
    print("\n| heads / KV heads x dim | KV | decode at 8192, GB/s | prefill 512, GFLOP/s |")
    print("| --- | --- |" + " ---: |" * 2)
    for heads in HEADS:
        for kv_type in ("f16", "q8_0"):
            print(attention_row(heads, kv_type, arguments.level, arguments.t), flush=True)


def matrix_row(block: dict[str, object], level: str, threads: int, bandwidth: float, rate: float) -> str:
    """Random codes: NaN and infinite scales change no speed."""
    weights, size = int(block["block_weights"]), int(block["block_bytes"])  # type: ignore[call-overload]
    name, cols = str(block["name"]), 2048
    draw = np.random.default_rng(1)

    def measure(rows: int, n_tokens: int, repeats: int) -> tuple[float, float]:
        blocks = draw.integers(0, 256, rows * cols // weights * size, dtype=np.uint8).tobytes()
        x = draw.standard_normal((n_tokens, cols), dtype=np.float32)
        _, seconds, n_bytes = testing.linear(level, name, blocks, x, n_threads=threads, n_repeats=repeats)
        return n_bytes / seconds / 1e9, 2 * rows * cols * n_tokens / seconds / 1e9

    # A pass over 256 MiB cannot come from a cache.
    read, _ = measure((256 << 20) // (cols // weights * size) // 16 * 16, 1, 5)
    products = [measure(2048, n, 20)[1] for n in (8, 32, 512)]
    cells = [f"{read:.1f}", f"{read / bandwidth:.0%}", *(f"{p:.0f}" for p in products), f"{products[-1] / rate:.0%}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def attention_row(heads: tuple[int, int, int], kv_type: str, level: str, threads: int) -> str:
    n_heads, n_kv_heads, dim = heads
    draw = np.random.default_rng(1)

    def measure(n: int, rows: int) -> float:
        q, k, v = (
            draw.standard_normal((m, h, dim), dtype=np.float32)
            for m, h in ((rows, n_heads), (n, n_kv_heads), (n, n_kv_heads))
        )
        table = draw.permutation(n // 16).astype(np.int32)
        options = {"n_threads": threads, "n_repeats": 10}
        return float(testing.attention(level, kv_type, q, k, v, table, n - rows, dim**-0.5, **options)[1])

    kv_bytes = 8192 * n_kv_heads * dim * (4 if kv_type == "f16" else 2 * 34 / 32)
    operations = 4 * dim * n_heads * 512 * 513 / 2
    return f"| {n_heads} / {n_kv_heads} x {dim} | {kv_type} | {kv_bytes / measure(8192, 1) / 1e9:.1f} | {operations / measure(512, 512) / 1e9:.0f} |"


if __name__ == "__main__":
    main()
