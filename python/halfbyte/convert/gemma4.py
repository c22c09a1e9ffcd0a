"""Gemma 4 in both tongues: layers with a window and full ones differ in heads and ropes, and the last ones may read the
keys and values of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfbyte.convert.family import EXPERT_WIDTH, GELU_TANH, GEMMA2_NAMES, PER_LAYER_NAMES, QK_NORMS, Config, Family
from halfbyte.errors import FormatError, UnsupportedError

_THETAS = {"full_attention": 1000000.0, "sliding_attention": 10000.0}
_PROPORTION = 0.25  # of a full layer's pairs that turn


def _ropes(config: Config) -> dict[str, dict[str, Any]]:
    ropes = config.get("rope_parameters") or {}
    return {kind: {"rope_theta": theta} | (ropes.get(kind) or {}) for kind, theta in _THETAS.items()}


def _metadata(config: Config) -> dict[str, Any]:
    """What GGUF says of a config's two kinds of layers."""
    n_layers, width = GEMMA4.n_layers(config), GEMMA4.count(config, "intermediate_size")
    period = GEMMA4.full_attention_every
    kinds = config.get("layer_types") or [
        "full_attention" if i % period == period - 1 or i == n_layers - 1 else "sliding_attention"
        for i in range(n_layers)
    ]
    has_window = [kind == "sliding_attention" for kind in kinds]
    n_shared = config.get("num_kv_shared_layers") or 0
    if len(kinds) != n_layers or not 0 <= n_shared < n_layers:
        raise FormatError(f"config.json: {len(kinds)} kinds and {n_shared} shared caches of {n_layers} layers.")
    # transformers writes what differs layer by layer, the publisher once.
    full: dict[str, Any] = next(iter((config.get("per_layer_config") or {}).values()), {})
    head_dim = GEMMA4.count(config, "head_dim")
    global_dim = int(full.get("head_dim") or config.get("global_head_dim") or GEMMA4.defaults["global_head_dim"])
    kv_heads = GEMMA4.count(config, "num_key_value_heads")
    global_kv = full.get("num_key_value_heads") or config.get("num_global_key_value_heads")
    global_kv = int(global_kv) if global_kv and config.get("attention_k_eq_v") else kv_heads
    ropes = _ropes(config)
    if ropes["full_attention"].get("rope_type", "proportional") != "proportional" or (
        ropes["sliding_attention"].get("rope_type", "default") != "default"
    ):
        raise UnsupportedError(f"config.json: ropes {ropes} are not supported.")
    if config.get("use_bidirectional_attention") == "all":
        raise UnsupportedError("config.json: use_bidirectional_attention = 'all' is not supported.")
    out = {
        "attention.key_length": global_dim,
        "attention.value_length": global_dim,
        "attention.key_length_swa": head_dim,
        "attention.value_length_swa": head_dim,
        "attention.sliding_window_pattern": has_window,
        "attention.shared_kv_layers": n_shared,
        "embedding_length_per_layer_input": config.get("hidden_size_per_layer_input", 256) or 0,
        "rope.dimension_count": global_dim,
        "rope.dimension_count_swa": head_dim,
        "rope.freq_base": float(ropes["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": float(ropes["sliding_attention"]["rope_theta"]),
    }
    if global_kv != kv_heads:
        out["attention.head_count_kv"] = [kv_heads if windowed else global_kv for windowed in has_window]
    if config.get("use_double_wide_mlp") and n_shared:
        out["feed_forward_length"] = [width * (2 if i >= n_layers - n_shared else 1) for i in range(n_layers)]
    return out


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """_metadata() backwards."""

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"gemma4.{key}", default)

    has_window = [bool(w) for w in get("attention.sliding_window_pattern")]
    n_shared = get("attention.shared_kv_layers", 0)
    kv_heads, widths = get("attention.head_count_kv"), get("feed_forward_length")
    of_kind = dict(zip(has_window, kv_heads, strict=True)) if isinstance(kv_heads, list) else {}
    first_full = has_window.index(False)
    return {
        "head_dim": get("attention.key_length_swa"),
        "global_head_dim": get("attention.key_length"),
        "num_key_value_heads": of_kind.get(True, kv_heads),
        "num_global_key_value_heads": of_kind.get(False),
        "attention_k_eq_v": f"blk.{first_full}.attn_v.weight" not in tensors,
        "num_kv_shared_layers": n_shared,
        "hidden_size_per_layer_input": get("embedding_length_per_layer_input", 0),
        "intermediate_size": min(widths) if isinstance(widths, list) else widths,
        "use_double_wide_mlp": isinstance(widths, list) and min(widths) != max(widths),
        "enable_moe_block": bool(get("expert_count")),
        "hidden_activation": GELU_TANH[0],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": _PROPORTION,
                "rope_theta": get("rope.freq_base", _THETAS["full_attention"]),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": get("rope.freq_base_swa", _THETAS["sliding_attention"]),
            },
        },
    } | ({"vocab_size_per_layer_input": get("vocab_size")} if get("vocab_size") else {})


GEMMA4 = Family(
    "gemma4",
    ("gemma4_text", "gemma4"),
    "Gemma4ForCausalLM",
    GEMMA2_NAMES
    | QK_NORMS
    | PER_LAYER_NAMES
    | {
        "model.layers.{}.layer_scalar": "blk.{}.layer_output_scale",
        "model.layers.{}.router.proj": "blk.{}.ffn_gate_inp",
        "model.layers.{}.experts.gate_proj": "blk.{}.ffn_gate_exps",
        "model.layers.{}.experts.up_proj": "blk.{}.ffn_up_exps",
        "model.layers.{}.experts.down_proj": "blk.{}.ffn_down_exps",
        "model.layers.{}.pre_feedforward_layernorm_2": "blk.{}.pre_ffw_norm_2",
        "model.layers.{}.post_feedforward_layernorm_1": "blk.{}.post_ffw_norm_1",
        "model.layers.{}.post_feedforward_layernorm_2": "blk.{}.post_ffw_norm_2",
    },
    {},
    {
        "rms_norm_eps": 1e-6, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
        "max_position_embeddings": 131072, "sliding_window": 512, "tie_word_embeddings": True,
    },
    keys=EXPERT_WIDTH
    | {"attention.sliding_window": "sliding_window", "final_logit_softcapping": "final_logit_softcapping"},
    spelling={"expert_used_count": "top_k_experts"},
    activations=GELU_TANH,
    full_attention_every=6,
    experts="halves",
    merging="gemma4",
    in_some_layers=("attn_k", "attn_k_norm", "attn_v"),
    more_metadata=_metadata,
    more_config=_config,
)  # fmt: skip
