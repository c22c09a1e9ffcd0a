"""Gemma 3n in both tongues: matrices from and to its streams are stacks, rows of the second embedding end before those of
the first, and the last layers read the keys and values of earlier ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from halfbyte.convert.experts import stack
from halfbyte.convert.family import GELU_TANH, GEMMA2_NAMES, PER_LAYER_NAMES, QK_NORMS, Config, Family
from halfbyte.convert.tensors import Array, Planned, Weight, is_plain
from halfbyte.errors import FormatError

_STACKED = re.compile(r"^(.*\.altup_(?:unembed_)?projections)\.(\d+)\.weight$")
_FIRST = re.compile(r"(.*layers\.)0(\.self_attn\.(?:k_proj|k_norm|v_proj)\.weight)")
_SCALE = ".altup.correct_output_scale"
_SECOND_EMBEDDING = "embed_tokens_per_layer.weight"
_SPARSE_LAYERS, _SPARSITY = 10, 0.95  # of configs that do not say


def _metadata(config: Config) -> dict[str, Any]:
    """What GGUF says of a config's layers, one by one."""
    n_layers = GEMMA3N.n_layers(config)
    period = GEMMA3N.full_attention_every
    kinds = config.get("layer_types") or [
        "full_attention" if i % period == period - 1 else "sliding_attention" for i in range(n_layers)
    ]
    n_sparse = _SPARSE_LAYERS if n_layers > _SPARSE_LAYERS else 0
    shares = config.get("activation_sparsity_pattern")
    if shares is None:
        shares = [_SPARSITY] * n_sparse + [0.0] * (n_layers - n_sparse)
    if len(kinds) != n_layers or len(shares) != n_layers or not all(0 <= share < 1 for share in shares):
        raise FormatError(f"config.json: {len(kinds)} kinds and sparsities {shares} of {n_layers} layers.")
    return {
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds],
        # As many deviations above the mean lies what this share of normal numbers is below.
        "activation_sparsity_scale": [NormalDist().inv_cdf(share) if share else -math.inf for share in shares],
    }


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """_metadata() backwards, and what only tensors tell."""
    cuts = metadata.get("gemma3n.activation_sparsity_scale")
    down = tensors.get("blk.0.laurel_l.weight")
    n_rows = metadata.get("gemma3n.vocab_size")
    return {
        "hidden_activation": GELU_TANH[0],
        **({"activation_sparsity_pattern": [round(NormalDist().cdf(cut), 6) for cut in cuts]} if cuts else {}),
        **({"laurel_rank": down.shape[1]} if down is not None else {}),
        **({"vocab_size_per_layer_input": n_rows} if n_rows else {}),
    }


def _gathered(weights: Mapping[str, Weight], config: Config) -> dict[str, Weight]:
    """A checkpoint's weights as GGUF has them."""
    out: dict[str, Weight] = {}
    alone: dict[str, dict[int, Weight]] = {}
    for name, weight in weights.items():
        if match := _STACKED.match(name):
            alone.setdefault(f"{match[1]}.weight", {})[int(match[2])] = weight
        elif name.endswith(_SCALE):
            out[f"{name}.weight"] = weight
        elif name.endswith(_SECOND_EMBEDDING):
            out[name] = _lengthened(weight, GEMMA3N.count(config, "vocab_size"))
        else:
            out[name] = weight
    return out | {name: stack(name, found) for name, found in alone.items()} | _unread(weights, config)


def _lengthened(weight: Weight, n_rows: int) -> Weight:
    """The second embedding with a row for every token: those past its end are read as the first."""
    n_more = n_rows - weight.shape[0]
    if n_more <= 0:
        return weight

    def rows(array: Array) -> Array:
        return np.concatenate([array, np.repeat(array[:1], n_more, axis=0)])

    return weight.changed((n_rows, *weight.shape[1:]), rows)


def _unread(weights: Mapping[str, Weight], config: Config) -> dict[str, Weight]:
    """Zeros for the keys and values that nobody reads, where a checkpoint has left them out: llama.cpp loads no file
    without them."""
    n_layers, n_shared = GEMMA3N.n_layers(config), GEMMA3N.count(config, "num_kv_shared_layers", least=0)
    if n_shared >= n_layers:
        raise FormatError(f"config.json: {n_layers} layers, {n_shared} of them with shared caches.")
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        first = _FIRST.fullmatch(name)
        for i in range(n_layers - n_shared, n_layers) if first and is_plain(weight.format) else ():
            absent = f"{first[1]}{i}{first[2]}"  # type: ignore[index]
            if absent not in weights:
                out[absent] = replace(weight, read=lambda w=weight: np.zeros_like(w.read()))  # type: ignore[misc]
    return out


def _scattered(tensors: list[Planned]) -> list[Planned]:
    """_gathered() backwards."""
    out: list[Planned] = []
    for t in tensors:
        stem = t.name.removesuffix(".weight")
        if stem.endswith("projections") and len(t.shape) == 3:
            out += [
                replace(t, name=f"{stem}.{i}.weight", shape=t.shape[1:],
                        make=lambda t=t, i=i: t.make().reshape(t.shape)[i])  # type: ignore[misc]
                for i in range(t.shape[0])
            ]  # fmt: skip
        else:
            out.append(replace(t, name=stem) if stem.endswith(_SCALE) else t)
    return out


GEMMA3N = Family(
    "gemma3n",
    ("gemma3n_text", "gemma3n"),
    "Gemma3nForCausalLM",
    GEMMA2_NAMES
    | QK_NORMS
    | PER_LAYER_NAMES
    | {
        "model.altup_projections": "altup_proj",
        "model.altup_unembed_projections": "altup_unembd_proj",
        "model.layers.{}.altup.correction_coefs": "blk.{}.altup_correct_coef",
        "model.layers.{}.altup.correct_output_scale": "blk.{}.altup_correct_scale",
        "model.layers.{}.altup.prediction_coefs": "blk.{}.altup_predict_coef",
        "model.layers.{}.altup.modality_router": "blk.{}.altup_router",
        "model.layers.{}.altup.router_norm": "blk.{}.altup_router_norm",
        "model.layers.{}.laurel.linear_left": "blk.{}.laurel_l",
        "model.layers.{}.laurel.linear_right": "blk.{}.laurel_r",
        "model.layers.{}.laurel.post_laurel_norm": "blk.{}.laurel_post_norm",
    },
    {},
    {
        "rms_norm_eps": 1e-6, "vocab_size": 262400, "hidden_size": 2048, "intermediate_size": 16384,
        "num_hidden_layers": 35, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
        "max_position_embeddings": 32768, "sliding_window": 512, "rope_theta": 1000000.0, "altup_num_inputs": 4,
        "altup_active_idx": 0, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 15,
        "final_logit_softcapping": 30.0, "tie_word_embeddings": True,
    },
    keys={
        "attention.sliding_window": "sliding_window",
        "attention.shared_kv_layers": "num_kv_shared_layers",
        "altup.num_inputs": "altup_num_inputs",
        "altup.active_idx": "altup_active_idx",
        "embedding_length_per_layer_input": "hidden_size_per_layer_input",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    activations=GELU_TANH,
    full_attention_every=5,
    in_some_layers=("attn_k", "attn_k_norm", "attn_v"),
    gather=_gathered,
    scatter=_scattered,
    more_metadata=_metadata,
    more_config=_config,
)  # fmt: skip
