"""Tiny random transformers models of each family, written to GGUF by the conversion rules of their formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte import _core

Weights = dict[str, np.ndarray]


@dataclass
class Family:
    """How a family is made (config class and arguments) and converted (names, metadata, changes to weights)."""

    arch: str
    config_class: str
    arguments: dict[str, Any]
    names: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)
    fix: Callable[[Weights, Any], None] = lambda weights, config: None


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


def phi3_fuse(weights: Weights, config: Any) -> None:
    r = getattr(config, "rope_parameters", None) or {}
    if "long_factor" in r:
        weights["rope_factors_long.weight"] = np.array(r["long_factor"], np.float32)
        weights["rope_factors_short.weight"] = np.array(r["short_factor"], np.float32)


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


def _rope(theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default", **more}


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", "LlamaConfig", BASE | {"rope_parameters": _rope(5000.0)}, LLAMA_NAMES, {"rope.freq_base": 5000.0}, permute_llama),
    "llama-tied-bias": Family(
        "llama", "LlamaConfig", BASE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, LLAMA_NAMES, {}, permute_llama
    ),
    "llama3-rope": Family(
        "llama", "LlamaConfig",
        BASE | {"rope_parameters": _rope(10000.0) | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                     "original_max_position_embeddings": 32}},
        LLAMA_NAMES, {}, llama3_factors,
    ),
    "llama-linear": Family(
        "llama", "LlamaConfig", BASE | {"rope_parameters": _rope() | {"rope_type": "linear", "factor": 4.0}}, LLAMA_NAMES,
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, permute_llama,
    ),
    "llama-yarn": Family(
        "llama", "LlamaConfig",
        BASE | {"rope_parameters": _rope() | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, LLAMA_NAMES,
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}, permute_llama,
    ),
    "mistral-window": Family(
        "llama", "MistralConfig", BASE | {"sliding_window": 20, "head_dim": 16}, LLAMA_NAMES, {"attention.sliding_window": 20}, permute_llama
    ),
    "qwen2": Family("qwen2", "Qwen2Config", BASE, LLAMA_NAMES),
    "qwen3": Family("qwen3", "Qwen3Config", BASE | {"head_dim": 32}, LLAMA_NAMES, {"attention.key_length": 32, "attention.value_length": 32}),
    "gemma": Family(
        "gemma", "GemmaConfig", BASE | {"head_dim": 32, "tie_word_embeddings": True}, LLAMA_NAMES,
        {"attention.key_length": 32, "attention.value_length": 32}, add_one_to_norms,
    ),
    "gemma2": Family(
        "gemma2", "Gemma2Config",
        BASE | {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 32, "tie_word_embeddings": True, "attn_implementation": "eager"},
        GEMMA2_NAMES,
        {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 16, "attn_logit_softcapping": 50.0,
         "final_logit_softcapping": 30.0},
        add_one_to_norms,
    ),
    "gemma3": Family(
        "gemma3", "Gemma3TextConfig",
        BASE | {"head_dim": 32, "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 32, "tie_word_embeddings": True,
                "rope_parameters": {"full_attention": _rope(1000000.0) | {"rope_type": "linear", "factor": 8.0}, "sliding_attention": _rope(10000.0)}},
        GEMMA2_NAMES,
        {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 16, "rope.freq_base": 1000000.0,
         "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        add_one_to_norms,
    ),
    "phi3": Family(
        "phi3", "Phi3Config", BASE | {"sliding_window": 24},
        LLAMA_NAMES | {"model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv", "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"},
        {"attention.sliding_window": 24},
    ),
    "phi3-longrope": Family(
        "phi3", "Phi3Config",
        BASE | {"max_position_embeddings": 256, "original_max_position_embeddings": 128,
                "rope_parameters": _rope() | {"rope_type": "longrope", "long_factor": [1.0 + 0.5 * i for i in range(8)],
                                              "short_factor": [1.0 + 0.1 * i for i in range(8)], "original_max_position_embeddings": 128}},
        LLAMA_NAMES | {"model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv", "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"},
        {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 128,
         "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(2.0) / np.log(128.0)))},
        phi3_fuse,
    ),
    "olmo2": Family(
        "olmo2", "Olmo2Config", BASE,
        LLAMA_NAMES | {"model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
                       "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm"},
    ),
    "mixtral": Family(
        "llama", "MixtralConfig", BASE | {"num_local_experts": 4, "num_experts_per_tok": 2}, MOE_NAMES,
        {"expert_count": 4, "expert_used_count": 2}, stack_experts_permuted,
    ),
    "qwen2moe": Family(
        "qwen2moe", "Qwen2MoeConfig",
        BASE | {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 72}, MOE_NAMES,
        {"expert_count": 8, "expert_used_count": 3}, stack_experts,
    ),
    "qwen3moe": Family(
        "qwen3moe", "Qwen3MoeConfig",
        BASE | {"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True}, MOE_NAMES,
        {"attention.key_length": 32, "attention.value_length": 32, "expert_count": 8, "expert_used_count": 3}, stack_experts,
    ),
    "qwen3moe-half-dense": Family(
        "qwen3moe", "Qwen3MoeConfig",
        BASE | {"head_dim": 32, "num_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 40, "norm_topk_prob": False, "decoder_sparse_step": 2},
        MOE_NAMES,
        {"attention.key_length": 32, "attention.value_length": 32, "expert_count": 5, "expert_used_count": 5, "expert_weights_norm": False},
        stack_experts,
    ),
    "olmoe": Family(
        "olmoe", "OlmoeConfig", BASE | {"num_experts": 8, "num_experts_per_tok": 2}, MOE_NAMES, {"expert_count": 8, "expert_used_count": 2}, stack_experts
    ),
    "granitemoe": Family(
        "granitemoe", "GraniteMoeConfig",
        BASE | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 4.0,
                "num_local_experts": 4, "num_experts_per_tok": 2},
        MOE_NAMES,
        {"embedding_scale": 3.0, "attention.scale": 0.2, "residual_scale": 0.5, "logit_scale": 4.0, "expert_count": 4, "expert_used_count": 2},
        stack_experts_permuted,
    ),
    "granitemoe-shared": Family(
        "granitemoe", "GraniteMoeSharedConfig",
        BASE | {"residual_multiplier": 0.5, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 56}, MOE_NAMES,
        {"attention.scale": 1.0, "residual_scale": 0.5, "expert_count": 4, "expert_used_count": 2}, stack_experts_permuted,
    ),
    "gpt-oss": Family(
        "gpt-oss", "GptOssConfig",
        BASE | {"head_dim": 32, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 16,
                "rope_parameters": _rope(150000.0) | {"rope_type": "yarn", "factor": 4.0, "truncate": False, "original_max_position_embeddings": 64}},
        MOE_NAMES | {"model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm"},
        {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 16, "expert_count": 6, "expert_used_count": 2,
         "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
        stack_experts_in_turns,
    ),
    "granite": Family(
        "granite", "GraniteConfig",
        BASE | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 4.0}, LLAMA_NAMES,
        {"embedding_scale": 3.0, "attention.scale": 0.2, "residual_scale": 0.5, "logit_scale": 4.0}, permute_llama,
    ),
    "smollm3": Family("smollm3", "SmolLM3Config", BASE | {"no_rope_layer_interval": 4}, LLAMA_NAMES, {"rope.freq_base": 2000000.0}, permute_llama),
    "starcoder2": Family(
        "starcoder2", "Starcoder2Config", BASE | {"sliding_window": None, "use_bias": True},
        LLAMA_NAMES | {"model.layers.{}.mlp.c_fc": "blk.{}.ffn_up", "model.layers.{}.mlp.c_proj": "blk.{}.ffn_down"},
        {"attention.layer_norm_epsilon": 1e-5},
    ),
    "gpt2": Family(
        "gpt2", "GPT2Config",
        {"vocab_size": 160, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2},
        {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm", "lm_head": "output",
         "transformer.h.{}.ln_1": "blk.{}.attn_norm", "transformer.h.{}.attn.c_attn": "blk.{}.attn_qkv",
         "transformer.h.{}.attn.c_proj": "blk.{}.attn_output", "transformer.h.{}.ln_2": "blk.{}.ffn_norm",
         "transformer.h.{}.mlp.c_fc": "blk.{}.ffn_up", "transformer.h.{}.mlp.c_proj": "blk.{}.ffn_down"},
        {"feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5}, transpose_conv1d,
    ),
    "phi2": Family(
        "phi2", "PhiConfig", BASE | {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
        LLAMA_NAMES | {"model.final_layernorm": "output_norm", "model.layers.{}.self_attn.dense": "blk.{}.attn_output",
                       "model.layers.{}.mlp.fc1": "blk.{}.ffn_up", "model.layers.{}.mlp.fc2": "blk.{}.ffn_down"},
        {"rope.dimension_count": 8, "attention.layer_norm_epsilon": 1e-5},
    ),
    "gptneox": Family(
        "gptneox", "GPTNeoXConfig",
        {k: v for k, v in BASE.items() if k != "num_key_value_heads"} | {"rotary_pct": 0.5},
        {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "lm_head": "output",
         "gpt_neox.layers.{}.input_layernorm": "blk.{}.attn_norm", "gpt_neox.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
         "gpt_neox.layers.{}.attention.query_key_value": "blk.{}.attn_qkv", "gpt_neox.layers.{}.attention.dense": "blk.{}.attn_output",
         "gpt_neox.layers.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up", "gpt_neox.layers.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down"},
        {"rope.dimension_count": 8, "use_parallel_residual": True, "attention.layer_norm_epsilon": 1e-5}, split_heads_of_three,
    ),
    "falcon": Family(
        "falcon", "FalconConfig",
        {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "multi_query": True, "parallel_attn": True,
         "bias": False, "new_decoder_architecture": False, "alibi": False, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256},
        {"transformer.word_embeddings": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output",
         "transformer.h.{}.input_layernorm": "blk.{}.attn_norm", "transformer.h.{}.self_attention.query_key_value": "blk.{}.attn_qkv",
         "transformer.h.{}.self_attention.dense": "blk.{}.attn_output", "transformer.h.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
         "transformer.h.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down"},
        {"feed_forward_length": 256, "attention.head_count_kv": 1, "attention.layer_norm_epsilon": 1e-5},
    ),
}  # fmt: skip
FAMILIES["gptneox-sequential"] = Family(
    "gptneox",
    "GPTNeoXConfig",
    FAMILIES["gptneox"].arguments | {"use_parallel_residual": False},
    FAMILIES["gptneox"].names,
    FAMILIES["gptneox"].metadata | {"use_parallel_residual": False},
    split_heads_of_three,
)


def make_model(family: Family) -> Any:
    """A random model of the family, in evaluation mode; deterministic."""
    import torch
    import transformers

    torch.manual_seed(11)
    config = getattr(transformers, family.config_class)(**family.arguments)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases away from their trivial starts, so that each of them matters.
            if parameter.ndim == 1 or name.endswith("_bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(3.0)
    return model


def write_gguf(model: Any, family: Family, path: Path) -> None:
    """The model as an F32 GGUF."""
    config, weights = model.config, {}
    tied = bool(getattr(config, "tie_word_embeddings", False))
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        number = next((part for part in stem.split(".") if part.isdigit()), None)
        pattern = ".".join("{}" if part.isdigit() else part for part in stem.split("."))
        target = family.names.get(pattern)
        if target is None:
            assert "rotary" in name or "inv_freq" in name or name.endswith((".attn.bias", ".masked_bias")), (
                f"no rule for {name}"
            )
            continue
        if target == "output" and tied and kind == "weight":
            continue
        weights[f"{target.format(number)}.{kind}"] = tensor.detach().numpy().astype(np.float32)
    family.fix(weights, config)
    a = family.arch
    metadata: dict[str, Any] = {
        "general.architecture": a,
        f"{a}.block_count": config.num_hidden_layers,
        f"{a}.embedding_length": config.hidden_size,
        f"{a}.context_length": config.max_position_embeddings,
        f"{a}.feed_forward_length": getattr(config, "intermediate_size", None) or 0,
        f"{a}.attention.head_count": config.num_attention_heads,
        f"{a}.attention.head_count_kv": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        f"{a}.attention.layer_norm_rms_epsilon": float(getattr(config, "rms_norm_eps", 1e-5)),
        f"{a}.rope.freq_base": 10000.0,
    }
    metadata |= {f"{a}.{k}": v for k, v in family.metadata.items()}
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "rope_theta" in rope:
        metadata[f"{a}.rope.freq_base"] = float(rope["rope_theta"])
    tensors = [(n, "F32", list(w.shape[::-1]), np.ascontiguousarray(w).tobytes()) for n, w in weights.items()]
    _core.write_gguf(str(path), metadata, tensors)
