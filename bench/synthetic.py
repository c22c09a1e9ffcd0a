"""Writes GGUF files with the shapes of real models and random weights, so that speed can be measured without a download.

python bench/synthetic.py llama-3.2-1b out.gguf [--mix Q4_K_M]

Shapes: llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, qwen2.5-0.5b, qwen3-30b-a3b. Mixes: Q4_K_M, Q5_K_M, Q3_K_M, or any one format
(Q4_0, Q8_0, F16, ...). Codes are random and scales are set so that weights have a standard deviation of 0.02: activations
stay bounded, text is nonsense, and every kernel does the work it would do on the real file.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfbyte import _core

FORMATS = {f["name"]: f for f in _core.formats()}
# Where a block's f16 scales stand.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}  # fmt: skip
# What a format becomes when rows are no multiple of 256 weights, as llama-quantize decides.
NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
TILE_BLOCKS = 1 << 14


@dataclass(frozen=True)
class Shape:
    """A model's numbers."""

    arch: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    n_ff: int
    n_vocab: int
    tied: bool
    biased: bool = False
    head_dim: int = 0  # 0: n_embd / n_heads
    norms_heads: bool = False
    # Mixtures of experts: then n_ff is an expert's.
    n_experts: int = 0
    n_used: int = 0


# fmt: off
SHAPES = {
    "llama-3.2-1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256, tied=True),
    "llama-3.2-3b": Shape("llama", 28, 3072, 24, 8, 8192, 128256, tied=True),
    "llama-3.1-8b": Shape("llama", 32, 4096, 32, 8, 14336, 128256, tied=False),
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936, tied=True, biased=True),
    "qwen3-30b-a3b": Shape("qwen3moe", 48, 2048, 32, 4, 768, 151936, tied=False, head_dim=128, norms_heads=True, n_experts=128, n_used=8),
}
# fmt: on


def more_bits(layer: int, n_layers: int) -> bool:
    """Layers whose v and down matrices get a wider type in the _M mixes."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def format_of(mix: str, name: str, layer: int, shape: Shape, n_cols: int) -> str:
    """The format that a mix gives a matrix."""
    base = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q3_K_M": "Q3_K"}.get(mix, mix)
    chosen = base
    if name == "output":
        chosen = "Q6_K" if base in SCALES and base != "Q8_0" else base
    elif (
        mix in ("Q4_K_M", "Q5_K_M")
        and name in ("attn_v", "ffn_down", "ffn_down_exps")
        and more_bits(layer, shape.n_layers)
    ):
        chosen = "Q6_K"
    elif mix == "Q3_K_M" and name in ("attn_v", "ffn_down", "attn_output"):
        chosen = "Q5_K" if layer < 2 and name != "attn_output" else "Q4_K"
    return NARROW.get(chosen, chosen) if n_cols % FORMATS[chosen]["block_weights"] else chosen


def tile(name: str, draw: np.random.Generator) -> np.ndarray:
    """Random blocks of a format whose weights have a standard deviation of about 0.02."""
    f = FORMATS[name]
    if name not in SCALES:
        weights = draw.normal(0, 0.02, TILE_BLOCKS * f["block_weights"]).astype(np.float32)
        return np.frombuffer(_core.encode(name, weights), np.uint8)
    blocks = draw.integers(0, 256, (TILE_BLOCKS, f["block_bytes"]), dtype=np.uint8)

    def set_scales(value: float) -> None:
        for at in SCALES[name]:
            sign = -8 if name in ("Q4_1", "Q5_1") and at == 2 else 1  # the minimum stands below zero
            blocks[:, at : at + 2] = np.float16(value * sign).reshape(1).view(np.uint8)

    set_scales(0.01)
    deviation = float(_core.decode(name, blocks.tobytes()).std())
    set_scales(0.01 * 0.02 / deviation)
    return blocks.reshape(-1)


def vocabulary(n: int) -> dict[str, Any]:
    """A byte-level vocabulary of n tokens: bytes, one merge, and names that no text contains."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, "he", "<|end|>", *(f"<filler {i}>" for i in range(n - 258))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3] + [1] * (n - 258),
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 257,
    }


def model(shape: Shape, mix: str) -> tuple[dict[str, Any], list[tuple[str, str, list[int], Any]]]:
    """Metadata and tensors of that shape and mix, as write_gguf() and Model.assemble() take them: made one at a time."""
    draw, tiles = np.random.default_rng(1), {}
    a, head_dim = shape.arch, shape.head_dim or shape.n_embd // shape.n_heads
    metadata = {
        "general.architecture": a, "general.name": f"synthetic {a} {mix}",
        f"{a}.block_count": shape.n_layers, f"{a}.context_length": 32768, f"{a}.embedding_length": shape.n_embd,
        f"{a}.feed_forward_length": shape.n_ff, f"{a}.attention.head_count": shape.n_heads,
        f"{a}.attention.head_count_kv": shape.n_kv_heads, f"{a}.attention.layer_norm_rms_epsilon": 1e-5, f"{a}.rope.freq_base": 500000.0,
        f"{a}.attention.key_length": head_dim, f"{a}.attention.value_length": head_dim,
        **vocabulary(shape.n_vocab),
    }  # fmt: skip
    if shape.n_experts:
        metadata |= {f"{a}.expert_count": shape.n_experts, f"{a}.expert_used_count": shape.n_used}
    tensors: list[tuple[str, str, list[int], Any]] = []

    def matrix(name: str, rows: int, cols: int, layer: int = 0, n: int = 1) -> None:
        role = (
            name.split(".")[-1]
            if name.startswith("blk.")
            else "output"
            if shape.tied or name == "output"
            else "token_embd"
        )
        kind = format_of(mix, role, layer, shape, cols)
        if kind not in tiles:
            tiles[kind] = tile(kind, draw)
        n_bytes = n * rows * cols // FORMATS[kind]["block_weights"] * FORMATS[kind]["block_bytes"]
        shape_of = [cols, rows] if n == 1 else [cols, rows, n]
        tensors.append((name + ".weight", kind, shape_of, lambda: np.resize(tiles[kind], n_bytes)))

    def vector(name: str, n: int, value: float) -> None:
        tensors.append((name, "F32", [n], np.full(n, value, np.float32)))

    matrix("token_embd", shape.n_vocab, shape.n_embd)
    if not shape.tied:
        matrix("output", shape.n_vocab, shape.n_embd)
    vector("output_norm.weight", shape.n_embd, 1.0)
    sizes = {
        "attn_q": shape.n_heads * head_dim,
        "attn_k": shape.n_kv_heads * head_dim,
        "attn_v": shape.n_kv_heads * head_dim,
    }
    for i in range(shape.n_layers):
        p = f"blk.{i}."
        for name, rows in sizes.items():
            matrix(p + name, rows, shape.n_embd, i)
            if shape.biased:
                vector(f"{p}{name}.bias", rows, 0.01)
        matrix(p + "attn_output", shape.n_embd, shape.n_heads * head_dim, i)
        if shape.norms_heads:
            vector(p + "attn_q_norm.weight", head_dim, 1.0)
            vector(p + "attn_k_norm.weight", head_dim, 1.0)
        suffix, n = ("_exps", shape.n_experts) if shape.n_experts else ("", 1)
        if shape.n_experts:
            router = draw.normal(0, 0.02, (shape.n_experts, shape.n_embd)).astype(np.float32)
            tensors.append((p + "ffn_gate_inp.weight", "F32", [shape.n_embd, shape.n_experts], router))
        matrix(p + "ffn_gate" + suffix, shape.n_ff, shape.n_embd, i, n)
        matrix(p + "ffn_up" + suffix, shape.n_ff, shape.n_embd, i, n)
        matrix(p + "ffn_down" + suffix, shape.n_embd, shape.n_ff, i, n)
        vector(p + "attn_norm.weight", shape.n_embd, 1.0)
        vector(p + "ffn_norm.weight", shape.n_embd, 1.0)
    return metadata, tensors


def write(shape: Shape, mix: str, path: str) -> None:
    """Writes a model of that shape and mix."""
    _core.write_gguf(path, *model(shape, mix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("path")
    parser.add_argument("--mix", default="Q4_K_M")
    arguments = parser.parse_args()
    write(SHAPES[arguments.shape], arguments.mix, arguments.path)


if __name__ == "__main__":
    main()
