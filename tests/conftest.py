"""Shared fixtures: tiny models made on the spot, and where optional test data lies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from halfbyte import _core

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples every time: whether a change is good is no matter of luck. HALFBYTE_EXAMPLES searches for new ones.
# Nor is it of how busy the machine is: hypothesis would call examples too slow by the clock.
hypothesis.settings.register_profile(
    "steady",
    derandomize="HALFBYTE_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")

# A shell's background jobs begin with Ctrl-C ignored, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """Vocabularies with expected ids: $HALFBYTE_TEST_VECTORS, else shared/vectors beside the checkout."""
    folder = Path(os.environ.get("HALFBYTE_TEST_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no tokenizer vectors at {folder} (set HALFBYTE_TEST_VECTORS)")
    return folder


def toy_vocabulary() -> tuple[list[str], list[int]]:
    """256 bytes as a byte-level BPE vocabulary, then <s>, </s> and <|im_start|>, <|im_end|>; pieces and kinds."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    pieces = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokens = [pieces[b] for b in range(256)] + ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    return tokens, [1] * 256 + [3] * 4


def write_tiny_llama(path: Path, **changes: Any) -> Path:
    """A llama of a few kilobytes with random weights; `changes` override metadata (None removes a key). `arch` makes it
    another architecture with the same tensors and `layer_norms` (names and widths, 0: a head's) beside them. `layer_heads`
    gives each layer its number of kv heads and their width."""
    options: dict[str, Any] = {"n_layers": 2, "n_embd": 64, "n_heads": 4, "n_kv_heads": 2, "n_ff": 96, "n_ctx": 512, "n_experts": 0}  # fmt: skip
    options |= {k: changes.pop(k) for k in list(changes) if k in options}
    format_name = changes.pop("format_name", "F32")
    tokens, kinds = toy_vocabulary()
    extra = changes.pop("extra_tokens", [])  # control tokens
    arch, layer_norms = changes.pop("arch", "llama"), changes.pop("layer_norms", {})
    tokens, kinds = tokens + extra, kinds + [3] * len(extra)
    n_vocab, e, heads, kv, ff = (
        len(tokens),
        options["n_embd"],
        options["n_heads"],
        options["n_kv_heads"],
        options["n_ff"],
    )
    draw = np.random.default_rng(changes.pop("seed", 7))
    layer_heads = changes.pop("layer_heads", None)
    metadata: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": "tiny",
        f"{arch}.block_count": options["n_layers"],
        f"{arch}.embedding_length": e,
        f"{arch}.context_length": options["n_ctx"],
        f"{arch}.feed_forward_length": ff,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }
    n_experts = options["n_experts"]
    if n_experts:
        metadata |= {"llama.expert_count": n_experts, "llama.expert_used_count": 2}
    if layer_heads is None:
        layer_heads = [(kv, e // heads)] * options["n_layers"]
    else:
        metadata[f"{arch}.attention.head_count_kv"] = [n for n, _ in layer_heads]
    metadata |= changes
    metadata = {k: v for k, v in metadata.items() if v is not None}

    def matrix(name: str, rows: int, cols: int, kind: str = format_name) -> tuple[str, str, list[int], bytes]:
        weights = draw.normal(0, 0.4 / np.sqrt(cols) * 2.5, (rows, cols)).astype(np.float32)
        return name, kind, [cols, rows], _core.encode(kind, weights)

    def stack(name: str, rows: int, cols: int) -> tuple[str, str, list[int], bytes]:
        _, kind, _, data = matrix(name, n_experts * rows, cols)
        return name, kind, [cols, rows, n_experts], data

    def ones(name: str, n: int) -> tuple[str, str, list[int], bytes]:
        return name, "F32", [n], (1 + 0.1 * draw.normal(size=n)).astype(np.float32).tobytes()

    tensors = [
        matrix("token_embd.weight", n_vocab, e),
        ones("output_norm.weight", e),
        matrix("output.weight", n_vocab, e),
    ]
    for i in range(options["n_layers"]):
        p, (kv, head_dim) = f"blk.{i}.", layer_heads[i]
        tensors += [
            ones(p + "attn_norm.weight", e),
            matrix(p + "attn_q.weight", heads * head_dim, e),
            matrix(p + "attn_k.weight", kv * head_dim, e),
            matrix(p + "attn_v.weight", kv * head_dim, e),
            matrix(p + "attn_output.weight", e, heads * head_dim),
            ones(p + "ffn_norm.weight", e),
            *(ones(f"{p}{name}.weight", width or head_dim) for name, width in layer_norms.items()),
        ]
        if n_experts:
            tensors += [
                matrix(p + "ffn_gate_inp.weight", n_experts, e, "F32"),
                stack(p + "ffn_gate_exps.weight", ff, e),
                stack(p + "ffn_up_exps.weight", ff, e),
                stack(p + "ffn_down_exps.weight", e, ff),
            ]
        else:
            tensors += [
                matrix(p + "ffn_gate.weight", ff, e),
                matrix(p + "ffn_up.weight", ff, e),
                matrix(p + "ffn_down.weight", e, ff),
            ]
    _core.write_gguf(str(path), metadata, tensors)
    return path


def tiny_gemma4(pattern: list[bool], windowed: tuple[int, int], full: tuple[int, int]) -> dict[str, Any]:
    """What makes a tiny llama a Gemma 4: layers with a window of 20 positions where `pattern` says so, and full ones.
    Of each kind kv heads and their width."""
    a = "gemma4"
    return {
        "arch": a,
        "n_layers": len(pattern),
        "layer_heads": [windowed if is_windowed else full for is_windowed in pattern],
        "layer_norms": {"attn_q_norm": 0, "attn_k_norm": 0, "post_attention_norm": 64, "post_ffw_norm": 64},
        f"{a}.attention.key_length": full[1],
        f"{a}.attention.value_length": full[1],
        f"{a}.rope.dimension_count": full[1],
        f"{a}.attention.key_length_swa": windowed[1],
        f"{a}.attention.value_length_swa": windowed[1],
        f"{a}.attention.sliding_window": 20,
        f"{a}.attention.sliding_window_pattern": pattern,
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_model(format_name="Q4_0", n_layers=3, ...) -> path of a tiny GGUF; made once per set of arguments."""
    folder = tmp_path_factory.mktemp("tiny")
    made: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = write_tiny_llama(folder / f"{len(made)}.gguf", **changes)
        return made[key]

    return make
