"""Folders of models that bring code of their own, made of folders of transformers classes that compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from .conversion import Weights

Config = dict[str, Any]


def renamed(weights: Weights, *pairs: tuple[str, str]) -> Weights:
    """Tensors with pieces of their names replaced, in that order."""
    out = {}
    for name, w in weights.items():
        for theirs, ours in pairs:
            name = name.replace(theirs, ours)
        out[name] = w
    return out


def about(config: Config, model_type: str, class_name: str, *left_out: str, **more: Any) -> Config:
    kept = {k: v for k, v in config.items() if k not in left_out}
    return kept | {"model_type": model_type, "architectures": [class_name], **more}


def as_exaone(weights: Weights, config: Config) -> tuple[Weights, Config]:
    """EXAONE 3.5: names of GPT-2's kind."""
    named = renamed(
        weights,
        ("model.embed_tokens", "transformer.wte"),
        ("model.norm", "transformer.ln_f"),
        ("model.layers", "transformer.h"),
        ("self_attn.o_proj", "attn.attention.out_proj"),
        ("self_attn", "attn.attention"),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("gate_proj", "c_fc_0"),
        ("up_proj", "c_fc_1"),
        ("down_proj", "c_proj"),
    )
    return named, about(
        config, "exaone", "ExaoneForCausalLM", "num_hidden_layers", "rms_norm_eps", "hidden_act", "rope_parameters",
        num_layers=config["num_hidden_layers"], layer_norm_epsilon=config["rms_norm_eps"], activation_function="silu",
        rope_theta=config["rope_parameters"]["rope_theta"],
    )  # fmt: skip


def as_internlm2(weights: Weights, config: Config) -> tuple[Weights, Config]:
    """InternLM 2: names of Meta's kind; q, k and v are one matrix: of each kv head its queries, then k, then v."""
    named = renamed(
        weights,
        ("model.embed_tokens", "model.tok_embeddings"),
        ("lm_head", "output"),
        ("self_attn.o_proj", "attention.wo"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
    )
    n, kv = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config["hidden_size"] // n
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}.self_attn"
        q, k, v = (named.pop(f"{prefix}.{part}_proj.weight") for part in "qkv")
        groups = []
        for group in range(kv):
            per = n // kv * dim
            one = slice(group * dim, (group + 1) * dim)
            groups += [q[group * per : (group + 1) * per], k[one], v[one]]
        named[f"model.layers.{i}.attention.wqkv.weight"] = np.concatenate(groups)
    return named, about(config, "internlm2", "InternLM2ForCausalLM", bias=False)


def as_minicpm(weights: Weights, config: Config) -> tuple[Weights, Config]:
    """MiniCPM: Granite's multipliers, said by what makes them; rope by its old names."""
    rope = dict(config.get("rope_parameters") or {"rope_theta": 10000.0})
    told = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope if rope.get("rope_type") == "longrope" else None}
    multipliers = {
        "scale_emb": config["embedding_multiplier"],
        "scale_depth": config["residual_multiplier"] * config["num_hidden_layers"] ** 0.5,
        "dim_model_base": config["hidden_size"] / config["logits_scaling"],
    }
    granite = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    return weights, about(config, "minicpm", "MiniCPMForCausalLM", *granite, "rope_parameters", **multipliers, **told)


def as_gemma3n(weights: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """As the model that also sees and hears is published: with keys and values that nobody reads, too."""
    n_layers, n_shared = config["num_hidden_layers"], config["num_kv_shared_layers"]
    for i in range(n_layers - n_shared, n_layers):
        for stem in ("k_proj", "v_proj", "k_norm"):
            like = weights[f"model.layers.0.self_attn.{stem}.weight"]
            weights[f"model.layers.{i}.self_attn.{stem}.weight"] = np.full_like(like, 0.5)
    out = {f"model.language_model.{name.removeprefix('model.')}": w for name, w in weights.items()}
    towers = ("vision_tower.timm_model.conv_stem.conv", "audio_tower.conformer.0.norm", "embed_vision.embedding")
    out |= {f"model.{tower}.weight": np.ones((3, 4), np.float32) for tower in towers}
    return out, {"model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"], "text_config": config}
