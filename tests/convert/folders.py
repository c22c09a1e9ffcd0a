"""Tiny Hugging Face folders made on the spot, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ..conftest import toy_vocabulary

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def llama_weights(config: dict[str, Any] = CONFIG, seed: int = 3) -> dict[str, np.ndarray]:
    """Random float32 weights of a llama under Hugging Face's names."""
    draw = np.random.default_rng(seed)
    e, ff, heads, kv = (
        config[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    dim = e // heads

    def matrix(rows: int, columns: int) -> np.ndarray:
        return draw.normal(0, 1 / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def ones() -> np.ndarray:
        return (1 + 0.1 * draw.normal(size=e)).astype(np.float32)

    out = {"model.embed_tokens.weight": matrix(config["vocab_size"], e), "model.norm.weight": ones()}
    out["lm_head.weight"] = matrix(config["vocab_size"], e)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out |= {
            p + "input_layernorm.weight": ones(),
            p + "self_attn.q_proj.weight": matrix(heads * dim, e),
            p + "self_attn.k_proj.weight": matrix(kv * dim, e),
            p + "self_attn.v_proj.weight": matrix(kv * dim, e),
            p + "self_attn.o_proj.weight": matrix(e, heads * dim),
            p + "post_attention_layernorm.weight": ones(),
            p + "mlp.gate_proj.weight": matrix(ff, e),
            p + "mlp.up_proj.weight": matrix(ff, e),
            p + "mlp.down_proj.weight": matrix(e, ff),
        }
    return out


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of the toy vocabulary: bytes, two of them merged, four control tokens."""
    tokens, _ = toy_vocabulary()
    vocabulary = {t: i for i, t in enumerate(tokens[:256])} | {"he": 256}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[256:])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": False,
        "chat_template": "{{ messages[0].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_folder(folder: Path, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """A model folder; `changes` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    safetensors.numpy.save_file(weights or llama_weights(), folder / "model.safetensors")
    write_tokenizer(folder)
    return folder
