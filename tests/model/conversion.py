"""The rules of GGUF that tiny models are written by: names, and changes to weights; and the sizes of tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
GEMMA2_NAMES = LLAMA_NAMES | {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
MOE_NAMES = LLAMA_NAMES | {
    "model.layers.{}.mlp.gate": "blk.{}.ffn_gate_inp",
    "model.layers.{}.mlp.router": "blk.{}.ffn_gate_inp",
    "model.layers.{}.mlp.experts": "blk.{}.ffn_exps",
    "model.layers.{}.mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp",
    "model.layers.{}.mlp.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
    "model.layers.{}.mlp.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
    "model.layers.{}.mlp.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
    "model.layers.{}.block_sparse_moe.router": "blk.{}.ffn_gate_inp",
    "model.layers.{}.block_sparse_moe.experts": "blk.{}.ffn_exps",
    "model.layers.{}.shared_mlp.input_linear": "blk.{}.ffn_shexp_gate_up",
    "model.layers.{}.shared_mlp.output_linear": "blk.{}.ffn_down_shexp",
    "model.layers.{}.self_attn": "blk.{}.attn",
}
GEMMA4_NAMES = (
    MOE_NAMES
    | GEMMA2_NAMES
    | {
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
        "model.layers.{}": "blk.{}.layer",
        "model.layers.{}.per_layer_input_gate": "blk.{}.inp_gate",
        "model.layers.{}.per_layer_projection": "blk.{}.proj",
        "model.layers.{}.post_per_layer_input_norm": "blk.{}.post_norm",
        "model.layers.{}.experts": "blk.{}.ffn_exps",
        "model.layers.{}.router": "blk.{}.router",
        "model.layers.{}.router.proj": "blk.{}.ffn_gate_inp",
        "model.layers.{}.pre_feedforward_layernorm_2": "blk.{}.pre_ffw_norm_2",
        "model.layers.{}.post_feedforward_layernorm_1": "blk.{}.post_ffw_norm_1",
        "model.layers.{}.post_feedforward_layernorm_2": "blk.{}.post_ffw_norm_2",
    }
)
GEMMA3N_NAMES = GEMMA4_NAMES | {
    "model.altup_projections.{}": "altup_proj.{}",
    "model.altup_unembed_projections.{}": "altup_unembd_proj.{}",
    "model.layers.{}.altup": "blk.{}.altup",
    "model.layers.{}.altup.correction_coefs": "blk.{}.altup_correct_coef",
    "model.layers.{}.altup.prediction_coefs": "blk.{}.altup_predict_coef",
    "model.layers.{}.altup.modality_router": "blk.{}.altup_router",
    "model.layers.{}.altup.router_norm": "blk.{}.altup_router_norm",
    "model.layers.{}.laurel.linear_left": "blk.{}.laurel_l",
    "model.layers.{}.laurel.linear_right": "blk.{}.laurel_r",
    "model.layers.{}.laurel.post_laurel_norm": "blk.{}.laurel_post_norm",
}
HEAD_DIM_32 = {"attention.key_length": 32, "attention.value_length": 32}
BASE = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "transformer.h.{}.ln_1": "blk.{}.attn_norm",
    "transformer.h.{}.attn.c_attn": "blk.{}.attn_qkv",
    "transformer.h.{}.attn.c_proj": "blk.{}.attn_output",
    "transformer.h.{}.ln_2": "blk.{}.ffn_norm",
    "transformer.h.{}.mlp.c_fc": "blk.{}.ffn_up",
    "transformer.h.{}.mlp.c_proj": "blk.{}.ffn_down",
}
GATE_UP = {"model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"}
POST_NORM_NAMES = LLAMA_NAMES | {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
SHARED_EXPERTS = {
    f"model.layers.{{}}.mlp.shared_experts.{kind}_proj": f"blk.{{}}.ffn_{kind}_shexp" for kind in ("gate", "up", "down")
}
LANGUAGE_NAMES = MOE_NAMES | {
    f"model.language_model.{name.removeprefix('model.')}": ours
    for name, ours in MOE_NAMES.items()
    if name.startswith("model.")
}
LATENT_NAMES = (
    MOE_NAMES
    | SHARED_EXPERTS
    | {
        "model.layers.{}.self_attn.q_a_proj": "blk.{}.attn_q_a",
        "model.layers.{}.self_attn.q_a_layernorm": "blk.{}.attn_q_a_norm",
        "model.layers.{}.self_attn.q_b_proj": "blk.{}.attn_q_b",
        "model.layers.{}.self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
        "model.layers.{}.self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
        "model.layers.{}.self_attn.kv_b_proj": "blk.{}.attn_kv_b",
    }
)
# Latent attention: heads of 24 + 8 dimensions (values of 16) from 32 numbers.
LATENT = BASE | {
    "num_key_value_heads": 4, "q_lora_rank": 40, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "rms_norm_eps": 1e-6,
}  # fmt: skip
LATENT_METADATA = {
    "attention.head_count_kv": 1, "attention.key_length": 40, "attention.value_length": 32,
    "attention.key_length_mla": 32, "attention.value_length_mla": 16, "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 40, "rope.dimension_count": 8, "expert_count": 8, "expert_used_count": 3,
}  # fmt: skip
LATENT_FUSED = {key: value for key, value in LATENT_METADATA.items() if not key.endswith("_mla")} | {
    "attention.head_count_kv": 4, "attention.key_length": 32, "attention.value_length": 16,
}  # fmt: skip
# Gemma 4: heads of 16 dimensions in layers with a window, of 32 in the others.
GEMMA4 = BASE | {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "num_hidden_layers": 7,
}
GEMMA4_METADATA = {
    "attention.key_length": 32, "attention.value_length": 32, "attention.key_length_swa": 16,
    "attention.value_length_swa": 16, "attention.sliding_window": 16, "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16, "rope.freq_base": 1000000.0, "rope.freq_base_swa": 10000.0,
}  # fmt: skip
# Gemma 3n: the first layers' gates are sparse, the last layers read the keys and values of earlier ones.
GEMMA3N = BASE | {
    "head_dim": 16, "sliding_window": 16, "tie_word_embeddings": True, "num_hidden_layers": 7, "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"], "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 152, "laurel_rank": 8, "activation_sparsity_pattern": [0.95, 0.5, 0.9] + [0.0] * 4,
}  # fmt: skip
GEMMA3N_METADATA = {
    "attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 16,
    "attention.sliding_window_pattern": [True, False] * 3 + [False], "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 16, "rope.freq_base": 1000000.0, "rope.freq_base_swa": 10000.0,
    "activation_sparsity_scale": [1.6448536, 0.0, 1.2815516] + [-np.inf] * 4, "altup.num_inputs": 4,
    "altup.active_idx": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip
LONGROPE = {
    "rope_theta": 10000.0, "rope_type": "longrope", "original_max_position_embeddings": 128,
    "long_factor": [1.0 + 0.5 * i for i in range(8)], "short_factor": [1.0 + 0.1 * i for i in range(8)],
}  # fmt: skip
LONGROPE_METADATA = {
    "rope.scaling.type": "longrope", "rope.scaling.original_context_length": 128,
    "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(2.0) / np.log(128.0))),
}  # fmt: skip
COHERE = BASE | {"logit_scale": 0.25, "tie_word_embeddings": True}
COHERE_METADATA = {"logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5}
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}


def vision_too(text: dict[str, Any], sections: list[int]) -> dict[str, Any]:
    """A config of a model that also sees; sections: of the pairs of rope."""
    parts = text | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": sections}}
    return {
        "text_config": parts,
        "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": text["hidden_size"]},
    }


def permute_llama(weights: Weights, config: Any) -> None:
    """q and k rows from halves to adjacent pairs, as converters write them for the llama rope."""
    for name, w in weights.items():
        heads = (
            config.num_attention_heads
            if ".attn_q." in name
            else config.num_key_value_heads
            if ".attn_k." in name
            else 0
        )
        if heads:
            weights[name] = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def add_one_to_norms(weights: Weights, config: Any) -> None:
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] = weights[name] + 1


def gemma4_parts(weights: Weights, config: Any) -> None:
    """What is no module of its own; and of full layers a quarter of the pairs turns."""
    config.allow_global_per_layer_attribute_access = True  # what layers differ in, the metadata says
    pairs = 16
    weights["rope_freqs.weight"] = np.where(np.arange(pairs) < pairs // 4, 1, 1e30).astype(np.float32)
    names = {"layer.layer_scalar": "layer_output_scale.weight", "router.scale": "ffn_gate_inp.scale",
             "router.per_expert_scale": "ffn_down_exps.scale"}  # fmt: skip
    for name in list(weights):
        for theirs, ours in names.items():
            if name.endswith(theirs):
                weights[name.removesuffix(theirs) + ours] = weights.pop(name)
    stack_experts(weights, config)


def gemma3n_parts(weights: Weights, config: Any) -> None:
    """Stacks of the streams' matrices, and a row of the second embedding for every token: others read the first."""
    for stack in ("altup_proj", "altup_unembd_proj"):
        parts = [weights.pop(f"{stack}.{i}.weight") for i in range(config.altup_num_inputs - 1)]
        weights[f"{stack}.weight"] = np.stack(parts)
    for name in [name for name in weights if name.endswith("altup.correct_output_scale")]:
        weights[name.replace("altup.correct_output_scale", "altup_correct_scale.weight")] = weights.pop(name)
    rows = weights["per_layer_token_embd.weight"]
    more = np.repeat(rows[:1], config.vocab_size - len(rows), axis=0)
    weights["per_layer_token_embd.weight"] = np.concatenate([rows, more])


def transpose_conv1d(weights: Weights, config: Any) -> None:
    for name in list(weights):
        if name.startswith("blk.") and weights[name].ndim == 2:
            weights[name] = np.ascontiguousarray(weights[name].T)


def split_heads_of_three(weights: Weights, config: Any) -> None:
    """GPT-NeoX and new Falcon: rows are [head][q k v]; files want q, then k, then v."""
    n_heads = config.num_attention_heads
    for name, w in weights.items():
        if ".attn_qkv." in name:
            weights[name] = w.reshape(n_heads, 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


def llama3_factors(weights: Weights, config: Any) -> None:
    permute_llama(weights, config)
    r = config.rope_parameters
    dim = config.head_dim
    freqs = 1.0 / r["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    low, high = (
        r["original_max_position_embeddings"] / r["low_freq_factor"],
        r["original_max_position_embeddings"] / r["high_freq_factor"],
    )
    factors = []
    for freq in freqs:
        wavelength = 2 * np.pi / freq
        smooth = (r["original_max_position_embeddings"] / wavelength - r["low_freq_factor"]) / (
            r["high_freq_factor"] - r["low_freq_factor"]
        )
        factors.append(
            1.0 if wavelength < high else r["factor"] if wavelength > low else 1 / ((1 - smooth) / r["factor"] + smooth)
        )
    weights["rope_freqs.weight"] = np.array(factors, np.float32)


def longrope_factors(weights: Weights, config: Any) -> None:
    r = getattr(config, "rope_parameters", None) or {}
    if "long_factor" in r:
        weights["rope_factors_long.weight"] = np.array(r["long_factor"], np.float32)
        weights["rope_factors_short.weight"] = np.array(r["short_factor"], np.float32)


def longrope_permuted(weights: Weights, config: Any) -> None:
    permute_llama(weights, config)
    longrope_factors(weights, config)


def stack_experts(weights: Weights, config: Any) -> None:
    """Fused gate and up matrices of experts, and of shared ones, in two; other parameters under their tensors' names."""
    for name in list(weights):
        stem, _, kind = name.rpartition(".")
        w = weights[name]
        if kind in ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"):
            del weights[name]
            suffix = "bias" if kind.endswith("_bias") else "weight"
            if kind.startswith("down"):
                weights[f"{stem.replace('exps', 'down_exps')}.{suffix}"] = w
            else:
                for part, half in zip(("gate", "up"), np.split(w, 2, axis=1), strict=True):
                    weights[f"{stem.replace('exps', f'{part}_exps')}.{suffix}"] = half
        elif stem.endswith("ffn_shexp_gate_up"):
            del weights[name]
            for part, half in zip(("gate", "up"), np.split(w, 2), strict=True):
                weights[f"{stem.replace('shexp_gate_up', f'{part}_shexp')}.weight"] = half
        elif stem.endswith("ffn_gate_inp_shexp"):
            weights[name] = w.reshape(-1)


def stack_experts_permuted(weights: Weights, config: Any) -> None:
    stack_experts(weights, config)
    permute_llama(weights, config)


def stack_experts_in_turns(weights: Weights, config: Any) -> None:
    """gpt-oss: matrices are (columns, rows), gate and up take turns, sinks are no module of their own."""
    for name in list(weights):
        stem, _, kind = name.rpartition(".")
        w = weights[name]
        if kind == "sinks":
            weights[f"{stem}_sinks.weight"] = weights.pop(name)
        elif kind in ("gate_up_proj", "down_proj"):
            w = weights[name] = w.swapaxes(1, 2)
        if kind.startswith("gate_up_proj"):
            weights[name] = np.concatenate([w[:, 0::2], w[:, 1::2]], axis=1)
    stack_experts(weights, config)


def bias_of_choice(weights: Weights, config: Any) -> None:
    """What takes part in the choice of experts only is no module of its own in folders."""
    for name in list(weights):
        if name.endswith(".e_score_correction_bias"):
            stem = name.removesuffix("ffn_gate_inp.e_score_correction_bias").removesuffix(
                "exp_probs_b.e_score_correction_bias"
            )
            weights[f"{stem}exp_probs_b.bias"] = weights.pop(name).reshape(-1)
    stack_experts(weights, config)


def _rope(theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default", **more}


def split_latent(weights: Weights, config: Any) -> None:
    """As newer files hold the matrices of latent attention: those of keys turned, apart from those of values."""
    for name in list(weights):
        if ".attn_kv_b." in name:
            w = weights.pop(name).reshape(config.num_attention_heads, -1, config.kv_lora_rank)
            keys, values = np.split(w, [config.qk_nope_head_dim], axis=1)
            weights[name.replace("_kv_b", "_k_b")] = keys.swapaxes(1, 2)
            weights[name.replace("_kv_b", "_v_b")] = values
    bias_of_choice(weights, config)
