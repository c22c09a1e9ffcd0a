"""Tiny random transformers models of each family, written to GGUF by the conversion rules of their formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from halfbyte import _core

from .conversion import (
    BASE,
    COHERE,
    COHERE_METADATA,
    GATE_UP,
    GEMMA2_NAMES,
    GEMMA3N,
    GEMMA3N_METADATA,
    GEMMA3N_NAMES,
    GEMMA4,
    GEMMA4_METADATA,
    GEMMA4_NAMES,
    GPT2_NAMES,
    HEAD_DIM_32,
    LANGUAGE_NAMES,
    LATENT,
    LATENT_FUSED,
    LATENT_METADATA,
    LATENT_NAMES,
    LLAMA_NAMES,
    LONGROPE,
    LONGROPE_METADATA,
    MOE_NAMES,
    POST_NORM_NAMES,
    SHARED_EXPERTS,
    VISION,
    Weights,
    _rope,
    add_one_to_norms,
    bias_of_choice,
    gemma3n_parts,
    gemma4_parts,
    llama3_factors,
    longrope_factors,
    longrope_permuted,
    permute_llama,
    split_heads_of_three,
    split_latent,
    stack_experts,
    stack_experts_in_turns,
    stack_experts_permuted,
    transpose_conv1d,
    vision_too,
)
from .published import as_exaone, as_gemma3n, as_internlm2, as_minicpm


@dataclass
class Family:
    """How a family is made (config class and arguments) and converted (names, metadata, changes to weights)."""

    arch: str
    config_class: str
    arguments: dict[str, Any]
    names: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)
    fix: Callable[[Weights, Any], None] = lambda weights, config: None
    # Where transformers has no such class (or one with much around it), one that computes the same stands in for it; this
    # turns its folder's tensors and config into those that are published.
    publish: Callable[[Weights, dict[str, Any]], tuple[Weights, dict[str, Any]]] | None = None


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
    "ministral3": Family(
        "mistral3", "Ministral3Config",
        BASE | {"head_dim": 16, "rope_parameters": _rope() | {
            "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1, "beta_fast": 32.0, "beta_slow": 1.0}},
        LLAMA_NAMES,
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0, "rope.scaling.original_context_length": 16,
         "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        permute_llama,
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
        BASE | {"max_position_embeddings": 256, "original_max_position_embeddings": 128, "rope_parameters": LONGROPE},
        LLAMA_NAMES | {"model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv", "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"},
        LONGROPE_METADATA,
        longrope_factors,
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
    "internlm2": Family("internlm2", "LlamaConfig", BASE, LLAMA_NAMES, {}, permute_llama, publish=as_internlm2),
    "exaone": Family("exaone", "LlamaConfig", BASE | {"rope_parameters": _rope(5000.0)}, LLAMA_NAMES, {"rope.freq_base": 5000.0}, publish=as_exaone),
    "minicpm": Family(
        "minicpm", "GraniteConfig",
        BASE | {"embedding_multiplier": 12.0, "attention_multiplier": 0.25, "residual_multiplier": 0.7, "logits_scaling": 64 / 256}, LLAMA_NAMES,
        {}, permute_llama, publish=as_minicpm,
    ),
    "minicpm-longrope": Family(
        "minicpm", "GraniteConfig",
        BASE | {"embedding_multiplier": 12.0, "attention_multiplier": 0.25, "residual_multiplier": 0.7, "logits_scaling": 64 / 256,
                "rope_parameters": LONGROPE},
        LLAMA_NAMES, LONGROPE_METADATA, longrope_permuted, publish=as_minicpm,
    ),
    "chatglm": Family("chatglm", "GlmConfig", BASE | {"head_dim": 16}, LLAMA_NAMES | GATE_UP, {"rope.dimension_count": 8}),
    "glm4": Family(
        "glm4", "Glm4Config", BASE | {"head_dim": 16},
        LLAMA_NAMES | GATE_UP | {"model.layers.{}.post_self_attn_layernorm": "blk.{}.post_attention_norm",
                                 "model.layers.{}.post_mlp_layernorm": "blk.{}.post_ffw_norm"},
        {"rope.dimension_count": 8},
    ),
    "glm4moe": Family(
        "glm4moe", "Glm4MoeConfig",
        BASE | {"head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 1,
                "routed_scaling_factor": 1.5, "use_qk_norm": True, "first_k_dense_replace": 1},
        MOE_NAMES | SHARED_EXPERTS | {"model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm"},
        {"rope.dimension_count": 8, "expert_count": 8, "expert_used_count": 3, "expert_weights_scale": 1.5}, bias_of_choice,
    ),
    "command-r": Family("command-r", "CohereConfig", COHERE, LLAMA_NAMES, COHERE_METADATA),
    "command-r-plus": Family("command-r", "CohereConfig", COHERE | {"use_qk_norm": True}, LLAMA_NAMES, COHERE_METADATA),
    "cohere2": Family("cohere2", "Cohere2Config", COHERE | {"sliding_window": 16}, LLAMA_NAMES, COHERE_METADATA | {"attention.sliding_window": 16}),
    "stablelm": Family(
        "stablelm", "StableLmConfig", BASE | {"use_qkv_bias": True, "partial_rotary_factor": 0.25}, LLAMA_NAMES,
        {"rope.dimension_count": 4, "attention.layer_norm_epsilon": 1e-5},
    ),
    "stablelm-parallel": Family(
        "stablelm", "StableLmConfig", BASE | {"use_parallel_residual": True, "partial_rotary_factor": 0.25}, LLAMA_NAMES,
        {"rope.dimension_count": 4, "attention.layer_norm_epsilon": 1e-5},
    ),
    "exaone4": Family("exaone4", "Exaone4Config", BASE | {"sliding_window": None, "layer_types": ["full_attention"] * 4}, POST_NORM_NAMES),
    "exaone4-window": Family(
        "exaone4", "Exaone4Config", BASE | {"sliding_window": 16, "sliding_window_pattern": 4}, POST_NORM_NAMES, {"attention.sliding_window": 16}
    ),
    "olmo3": Family(
        "olmo2", "Olmo3Config",
        BASE | {"sliding_window": 16,
                "rope_parameters": {"sliding_attention": _rope(), "full_attention": _rope() | {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}},
        POST_NORM_NAMES,
        {"attention.sliding_window": 16, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
    ),
    "ernie4_5": Family("ernie4_5", "Ernie4_5Config", BASE | {"head_dim": 32, "use_bias": True}, LLAMA_NAMES, HEAD_DIM_32),
    "ernie4_5-moe": Family(
        "ernie4_5-moe", "Ernie4_5_MoeConfig",
        BASE | {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 40, "moe_num_shared_experts": 2, "moe_layer_start_index": 1},
        MOE_NAMES | SHARED_EXPERTS | {"model.layers.{}.mlp.gate.moe_statics": "blk.{}.exp_probs_b"},
        {"expert_count": 8, "expert_used_count": 3}, bias_of_choice,
    ),
    "hunyuan-dense": Family(
        "hunyuan-dense", "HunYuanDenseV1Config", BASE | {"head_dim": 16},
        LLAMA_NAMES | {"model.layers.{}.self_attn.query_layernorm": "blk.{}.attn_q_norm",
                       "model.layers.{}.self_attn.key_layernorm": "blk.{}.attn_k_norm"},
    ),
    "hunyuan-alpha": Family(
        "hunyuan-dense", "HunYuanDenseV1Config", BASE | {"head_dim": 16, "rope_parameters": _rope() | {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}},
        LLAMA_NAMES | {"model.layers.{}.self_attn.query_layernorm": "blk.{}.attn_q_norm",
                       "model.layers.{}.self_attn.key_layernorm": "blk.{}.attn_k_norm"},
        {"rope.freq_base": 10000.0 * 50.0 ** (16 / 14)},
    ),
    "seed_oss": Family(
        "seed_oss", "SeedOssConfig", BASE | {"head_dim": 32},
        LLAMA_NAMES | {"model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm"}, HEAD_DIM_32,
    ),
    "qwen2vl": Family("qwen2vl", "Qwen2VLConfig", vision_too(BASE, [2, 3, 3]), LANGUAGE_NAMES, {"rope.dimension_sections": [2, 3, 3, 0]}),
    "qwen2.5vl": Family("qwen2vl", "Qwen2_5_VLConfig", vision_too(BASE, [2, 3, 3]), LANGUAGE_NAMES, {"rope.dimension_sections": [2, 3, 3, 0]}),
    "qwen3vl": Family(
        "qwen3vl", "Qwen3VLConfig", vision_too(BASE | {"head_dim": 32}, [6, 5, 5]), LANGUAGE_NAMES,
        HEAD_DIM_32 | {"rope.dimension_sections": [6, 5, 5, 0]},
    ),
    "qwen3vlmoe": Family(
        "qwen3vlmoe", "Qwen3VLMoeConfig",
        vision_too(BASE | {"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}, [6, 5, 5]), LANGUAGE_NAMES,
        HEAD_DIM_32 | {"rope.dimension_sections": [6, 5, 5, 0], "expert_count": 8, "expert_used_count": 3}, stack_experts,
    ),
    "mistral3": Family(
        "llama", "Mistral3Config",
        {"text_config": BASE | {"model_type": "mistral", "head_dim": 16, "sliding_window": None}, "vision_config": VISION | {"model_type": "pixtral"}},
        LANGUAGE_NAMES, {}, permute_llama,
    ),
    "ministral3-vision": Family(
        "mistral3", "Mistral3Config",
        {"text_config": BASE | {"model_type": "ministral3", "head_dim": 16, "rope_parameters": _rope() | {
            "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1, "beta_fast": 32.0, "beta_slow": 1.0}},
         "vision_config": VISION | {"model_type": "pixtral"}},
        LANGUAGE_NAMES,
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0, "rope.scaling.original_context_length": 16,
         "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        permute_llama,
    ),
    "gemma3-vision": Family(
        "gemma3", "Gemma3Config",
        {"text_config": BASE | {"model_type": "gemma3_text", "head_dim": 32, "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 32},
         "vision_config": VISION | {"model_type": "siglip_vision_model", "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
         "mm_tokens_per_image": 1, "tie_word_embeddings": True},
        LANGUAGE_NAMES | {f"model.language_model.{k.removeprefix('model.')}": v for k, v in GEMMA2_NAMES.items() if k.startswith("model.")},
        HEAD_DIM_32 | {"attention.sliding_window": 16, "rope.freq_base": 1000000.0}, add_one_to_norms,
    ),
    "gemma3n": Family(
        "gemma3n", "Gemma3nTextConfig", GEMMA3N, GEMMA3N_NAMES, GEMMA3N_METADATA, gemma3n_parts,
    ),
    "gemma3n-published": Family(
        "gemma3n", "Gemma3nTextConfig", GEMMA3N | {"altup_num_inputs": 3, "altup_active_idx": 1}, GEMMA3N_NAMES,
        GEMMA3N_METADATA | {"altup.num_inputs": 3, "altup.active_idx": 1}, gemma3n_parts, as_gemma3n,
    ),
    "gemma4": Family(
        "gemma4", "Gemma4TextConfig",
        GEMMA4 | {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 160, "num_kv_shared_layers": 3, "use_double_wide_mlp": True,
                  "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"] * 2 + ["full_attention"], "final_logit_softcapping": 30.0},
        GEMMA4_NAMES,
        GEMMA4_METADATA | {
            "attention.sliding_window_pattern": [True, False, True, False, True, True, False], "attention.shared_kv_layers": 3,
            "embedding_length_per_layer_input": 16, "feed_forward_length": [96] * 4 + [192] * 3, "final_logit_softcapping": 30.0},
        gemma4_parts,
    ),
    "gemma4-moe": Family(
        "gemma4", "Gemma4TextConfig",
        GEMMA4 | {"hidden_size_per_layer_input": 0, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "enable_moe_block": True,
                  "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 40},
        GEMMA4_NAMES,
        GEMMA4_METADATA | {
            "attention.sliding_window_pattern": [True] * 5 + [False] * 2, "attention.head_count_kv": [2] * 5 + [1] * 2,
            "embedding_length_per_layer_input": 0, "expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 40},
        gemma4_parts,
    ),
    "deepseek2-lite": Family(
        "deepseek2", "DeepseekV2Config",
        LATENT | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "rope_parameters": _rope() | {
            "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 32, "mscale": 0.707, "mscale_all_dim": 0.707}},
        LATENT_NAMES,
        LATENT_METADATA | {"rope.scaling.type": "yarn", "rope.scaling.factor": 40.0, "rope.scaling.original_context_length": 32,
                           "rope.scaling.yarn_log_multiplier": 0.0707},
        split_latent,
    ),
    "deepseek2": Family(
        "deepseek2", "DeepseekV2Config",
        LATENT | {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}, LATENT_NAMES,
        LATENT_FUSED | {"expert_group_count": 4, "expert_group_used_count": 2, "expert_weights_scale": 16.0}, bias_of_choice,
    ),
    "deepseek3": Family(
        "deepseek2", "DeepseekV3Config",
        LATENT | {"n_group": 4, "topk_group": 2, "n_shared_experts": 1, "rope_parameters": _rope() | {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 1.0}},
        LATENT_NAMES,
        LATENT_METADATA | {"expert_group_count": 4, "expert_group_used_count": 2, "expert_weights_scale": 2.5, "expert_weights_norm": True,
                           "expert_gating_func": 2, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0,
                           "rope.scaling.original_context_length": 32, "rope.scaling.yarn_log_multiplier": 0.1},
        split_latent,
    ),
    "glm4.7-flash": Family(
        "deepseek2", "Glm4MoeLiteConfig", LATENT, LATENT_NAMES,
        LATENT_METADATA | {"expert_weights_scale": 1.8, "expert_weights_norm": True}, split_latent,
    ),
    "dots1": Family(
        "dots1", "Dots1Config",
        BASE | {"head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 2,
                "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "sliding_window": None},
        MOE_NAMES | SHARED_EXPERTS,
        {"expert_count": 8, "expert_used_count": 3, "expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": 2.5},
        bias_of_choice,
    ),
    "minimax-m2": Family(
        "minimax-m2", "MiniMaxM2Config",
        BASE | {"head_dim": 16, "rotary_dim": 8, "num_local_experts": 8, "num_experts_per_tok": 3}, MOE_NAMES
        | {"model.layers.{}.mlp": "blk.{}.ffn_gate_inp"},
        {"rope.dimension_count": 8, "rope.freq_base": 5000000.0, "expert_count": 8, "expert_used_count": 3}, bias_of_choice,
    ),
    "hunyuan-moe": Family(
        "hunyuan-moe", "HunYuanMoEV1Config", BASE | {"head_dim": 16, "num_experts": 8, "moe_topk": 3},
        MOE_NAMES | {"model.layers.{}.self_attn.query_layernorm": "blk.{}.attn_q_norm",
                     "model.layers.{}.self_attn.key_layernorm": "blk.{}.attn_k_norm", "model.layers.{}.mlp.gate.wg": "blk.{}.ffn_gate_inp"}
        | {f"model.layers.{{}}.mlp.shared_mlp.{kind}_proj": f"blk.{{}}.ffn_{kind}_shexp" for kind in ("gate", "up", "down")},
        {"expert_count": 8, "expert_used_count": 3}, stack_experts,
    ),
    "nemotron": Family(
        "nemotron", "NemotronConfig", BASE | {"partial_rotary_factor": 0.5}, LLAMA_NAMES,
        {"rope.dimension_count": 8, "attention.layer_norm_epsilon": 1e-5}, add_one_to_norms,
    ),
    "arcee": Family("arcee", "ArceeConfig", BASE, LLAMA_NAMES, {}, permute_llama),
    "starcoder": Family(
        "starcoder", "GPTBigCodeConfig",
        {"vocab_size": 160, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2},
        GPT2_NAMES, {"feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5, "attention.head_count_kv": 1},
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
        GPT2_NAMES,
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

    torch.set_num_threads(1)  # models as small as these are slower with more
    torch.manual_seed(11)
    config = getattr(transformers, family.config_class)(**family.arguments)
    config._attn_implementation = "eager"
    sees = hasattr(config, "vision_config")
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    model = kind.from_config(config).float().eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.1)
            if name.endswith("layer_scalar"):
                buffer.copy_(torch.rand_like(buffer) * 0.5 + 0.5)
        for name, parameter in model.named_parameters():
            # Norms and biases away from their trivial starts, so that each of them matters.
            if parameter.ndim == 1 or name.endswith("_bias") or "_norm." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(3.0)
            if config.model_type in ("gemma3n_text", "gemma4_text") and ".q_norm." in name:
                parameter.mul_(0.2)  # the norm is what makes scores small there, and these are of random heads
            if "modality_router" in name:
                parameter.mul_(4 * config.hidden_size**0.5)  # what it reads is divided by the width
            elif "tion_coefs" in name:
                parameter.mul_(2.0)  # so that streams mix
    return model


def save_folder(model: Any, family: Family, folder: Path) -> None:
    """The model as its publisher's folder."""
    model.save_pretrained(folder)
    if family.publish is None:
        return
    path, config = folder / "model.safetensors", folder / "config.json"
    weights, about = family.publish(safetensors.numpy.load_file(path), json.loads(config.read_text()))
    safetensors.numpy.save_file(weights, path)
    config.write_text(json.dumps(about))


def write_gguf(model: Any, family: Family, path: Path) -> None:
    """The model as an F32 GGUF."""
    config, weights = model.config.get_text_config(), {}
    tied = bool(getattr(config, "tie_word_embeddings", False))
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        number = next((part for part in stem.split(".") if part.isdigit()), None)
        pattern = ".".join("{}" if part.isdigit() else part for part in stem.split("."))
        target = family.names.get(pattern)
        if target is None:
            assert (
                "rotary" in name
                or "visual" in name
                or "vision_tower" in name
                or "projector" in name
                or "inv_freq" in name
                or name.endswith((".attn.bias", ".masked_bias"))
            ), f"no rule for {name}"
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
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "rope_theta" in rope:
        metadata[f"{a}.rope.freq_base"] = float(rope["rope_theta"])
    metadata |= {f"{a}.{k}": v for k, v in family.metadata.items()}
    tensors = [(n, "F32", list(w.shape[::-1]), np.ascontiguousarray(w).tobytes()) for n, w in weights.items()]
    _core.write_gguf(str(path), metadata, tensors)
