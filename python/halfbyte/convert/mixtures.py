"""The table of architectures: mixtures of experts."""

from __future__ import annotations

from typing import Any

from halfbyte.convert.family import (
    ERNIE_DEFAULTS,
    EXPERT_WIDTH,
    EXPERTS_NORMALIZED,
    GRANITE_DEFAULTS,
    GRANITE_KEYS,
    GRANITE_MOE_NAMES,
    LATENT_KEYS,
    LATENT_NAMES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    LOCAL_EXPERTS,
    PERMUTED,
    QK_NORMS,
    QWEN3_VL_DEFAULTS,
    ROUTER,
    Family,
    expert_stacks,
    shared_expert,
)

_DEEPSEEK_NAMES = (
    LATENT_NAMES | ROUTER | expert_stacks("mlp") | shared_expert("mlp.shared_experts")
    | {"model.layers.{}.mlp.gate.e_score_correction": "blk.{}.exp_probs_b"}
)  # fmt: skip
_GROUPED_KEYS = (
    EXPERT_WIDTH | EXPERTS_NORMALIZED
    | {
        "expert_gating_func": "scoring_func",
        "expert_group_count": "n_group",
        "expert_group_used_count": "topk_group",
        "expert_shared_count": "n_shared_experts",
        "expert_weights_scale": "routed_scaling_factor",
        "leading_dense_block_count": "first_k_dense_replace",
    }
)  # fmt: skip
_DEEPSEEK_DEFAULTS = {
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip


def _deepseek(model_types: tuple[str, ...], architecture: str, defaults: dict[str, Any]) -> Family:
    """One of the architectures that are deepseek2 in GGUF files: they differ in what config.json may leave out."""
    return Family(
        "deepseek2",
        model_types,
        architecture,
        _DEEPSEEK_NAMES,
        {},
        _DEEPSEEK_DEFAULTS | defaults,
        keys=LATENT_KEYS | _GROUPED_KEYS,
        spelling={"expert_count": "n_routed_experts"},
        experts="each",
    )


MIXTURES: tuple[Family, ...] = (
    Family(
        "granitemoe",
        ("granitemoe",),
        "GraniteMoeForCausalLM",
        GRANITE_MOE_NAMES,
        PERMUTED,
        GRANITE_DEFAULTS,
        keys=GRANITE_KEYS,
        spelling=LOCAL_EXPERTS,
        experts="halves",
    ),
    Family(
        "granitemoe",
        ("granitemoeshared",),
        "GraniteMoeSharedForCausalLM",
        GRANITE_MOE_NAMES | shared_expert("shared_mlp"),
        PERMUTED,
        GRANITE_DEFAULTS,
        keys=GRANITE_KEYS | {"expert_shared_feed_forward_length": "shared_intermediate_size"},
        spelling=LOCAL_EXPERTS,
        experts="halves",
    ),
    Family(
        "llama",
        ("mixtral",),
        "MixtralForCausalLM",
        LLAMA_NAMES | {"model.layers.{}.block_sparse_moe.gate": "blk.{}.ffn_gate_inp"} | expert_stacks("block_sparse_moe", "w1", "w3", "w2")
        | ROUTER | expert_stacks("mlp"),
        PERMUTED,
        {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "num_key_value_heads": 8, "max_position_embeddings": 131072,
         "num_local_experts": 8, "num_experts_per_tok": 2},
        keys={"attention.sliding_window": "sliding_window"},
        spelling=LOCAL_EXPERTS,
        experts="each",
    ),
    Family(
        "qwen2moe",
        ("qwen2_moe",),
        "Qwen2MoeForCausalLM",
        LLAMA_NAMES | ROUTER | expert_stacks("mlp") | shared_expert("mlp.shared_expert")
        | {"model.layers.{}.mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp"},
        {},
        LLAMA_DEFAULTS | {"max_position_embeddings": 32768, "norm_topk_prob": False},
        keys=EXPERT_WIDTH | EXPERTS_NORMALIZED | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        experts="each",
    ),
    Family(
        "qwen3moe",
        ("qwen3_moe",),
        "Qwen3MoeForCausalLM",
        LLAMA_NAMES | QK_NORMS | ROUTER | expert_stacks("mlp"),
        {},
        LLAMA_DEFAULTS | {"max_position_embeddings": 32768, "norm_topk_prob": False},
        keys=EXPERT_WIDTH | EXPERTS_NORMALIZED,
        experts="each",
    ),
    Family(
        "olmoe",
        ("olmoe",),
        "OlmoeForCausalLM",
        LLAMA_NAMES | QK_NORMS | ROUTER | expert_stacks("mlp"),
        {},
        {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "norm_topk_prob": False},
        keys=EXPERTS_NORMALIZED,
        experts="each",
    ),
    Family(
        "gpt-oss",
        ("gpt_oss",),
        "GptOssForCausalLM",
        LLAMA_NAMES | expert_stacks("mlp")
        | {
            "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
            "model.layers.{}.self_attn.sinks": "blk.{}.attn_sinks",
            "model.layers.{}.mlp.router": "blk.{}.ffn_gate_inp",
        },
        {},
        {
            "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "max_position_embeddings": 131072, "head_dim": 64,
            "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128, "num_local_experts": 128,
            "num_experts_per_tok": 4,
        },
        keys={"attention.sliding_window": "sliding_window", "expert_feed_forward_length": "intermediate_size"},
        spelling=LOCAL_EXPERTS,
        full_attention_every=2,
        experts="turns",
    ),
    Family(
        "glm4moe",
        ("glm4_moe",),
        "Glm4MoeForCausalLM",
        LLAMA_NAMES | QK_NORMS | ROUTER | expert_stacks("mlp") | shared_expert("mlp.shared_experts")
        | {
            "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
            "model.layers.{}.mlp.gate.e_score_correction": "blk.{}.exp_probs_b",
        },
        {},
        {
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 131072,
            "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 128, "num_experts_per_tok": 8,
            "n_shared_experts": 1, "routed_scaling_factor": 1.0, "first_k_dense_replace": 1, "norm_topk_prob": True,
        },
        keys=EXPERT_WIDTH | EXPERTS_NORMALIZED | {
            "expert_shared_count": "n_shared_experts",
            "expert_weights_scale": "routed_scaling_factor",
            "leading_dense_block_count": "first_k_dense_replace",
        },
        spelling={"expert_count": "n_routed_experts"},
        experts="each",
    ),
    _deepseek(("deepseek_v2",), "DeepseekV2ForCausalLM", {
        "max_position_embeddings": 2048, "n_routed_experts": 64, "moe_intermediate_size": 1407, "n_shared_experts": 2,
        "routed_scaling_factor": 1.0, "first_k_dense_replace": 0, "norm_topk_prob": False, "scoring_func": "softmax",
        "topk_method": "greedy",
    }),
    _deepseek(("deepseek_v3", "kimi_k2"), "DeepseekV3ForCausalLM", {
        "max_position_embeddings": 4096, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8,
        "topk_group": 4, "first_k_dense_replace": 3, "norm_topk_prob": True, "scoring_func": "sigmoid",
    }),
    _deepseek(("glm4_moe_lite",), "Glm4MoeLiteForCausalLM", {
        "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256,
        "max_position_embeddings": 202752, "n_routed_experts": 64, "num_experts_per_tok": 4,
        "moe_intermediate_size": 1536, "n_shared_experts": 1, "routed_scaling_factor": 1.8, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "scoring_func": "sigmoid",
    }),
    Family(
        "dots1",
        ("dots1",),
        "Dots1ForCausalLM",
        LLAMA_NAMES | QK_NORMS | ROUTER | expert_stacks("mlp") | shared_expert("mlp.shared_experts")
        | {"model.layers.{}.mlp.gate.e_score_correction": "blk.{}.exp_probs_b"},
        {},
        {
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048, "moe_intermediate_size": 1408,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
            "norm_topk_prob": False, "scoring_func": "noaux_tc",
        },
        keys=_GROUPED_KEYS,
        spelling={"expert_count": "n_routed_experts"},
        experts="each",
    ),
    Family(
        "minimax-m2",
        ("minimax_m2",),
        "MiniMaxM2ForCausalLM",
        LLAMA_NAMES | QK_NORMS | expert_stacks("block_sparse_moe", "w1", "w3", "w2") | expert_stacks("mlp")
        | {
            "model.layers.{}.block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
            "model.layers.{}.block_sparse_moe.e_score_correction": "blk.{}.exp_probs_b",
            "model.layers.{}.mlp.e_score_correction": "blk.{}.exp_probs_b",
        }
        | ROUTER,
        {},
        {
            "rms_norm_eps": 1e-6, "rope_theta": 5000000.0, "max_position_embeddings": 196608, "head_dim": 128,
            "num_key_value_heads": 8, "num_local_experts": 256, "num_experts_per_tok": 8, "scoring_func": "sigmoid",
        },
        keys={"expert_feed_forward_length": "intermediate_size", "expert_gating_func": "scoring_func"},
        spelling=LOCAL_EXPERTS,
        experts="each",
    ),
    Family(
        "hunyuan-moe",
        ("hunyuan_v1_moe",),
        "HunYuanMoEV1ForCausalLM",
        LLAMA_NAMES | expert_stacks("mlp") | shared_expert("mlp.shared_mlp")
        | {
            "model.layers.{}.mlp.gate.wg": "blk.{}.ffn_gate_inp",
            "model.layers.{}.self_attn.query_layernorm": "blk.{}.attn_q_norm",
            "model.layers.{}.self_attn.key_layernorm": "blk.{}.attn_k_norm",
        },
        {},
        {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "num_experts": 1, "moe_topk": 1},
        keys={
            "expert_feed_forward_length": "intermediate_size", "expert_shared_feed_forward_length": "intermediate_size",
        },
        spelling={"expert_used_count": "moe_topk"},
        experts="each",
    ),
    Family(
        "ernie4_5-moe",
        ("ernie4_5_moe",),
        "Ernie4_5_MoeForCausalLM",
        LLAMA_NAMES | ROUTER | expert_stacks("mlp") | shared_expert("mlp.shared_experts")
        | {
            "model.layers.{}.mlp.moe_statics.e_score_correction": "blk.{}.exp_probs_b",
            "model.layers.{}.mlp.gate.moe_statics.e_score_correction": "blk.{}.exp_probs_b",
        },
        {},
        ERNIE_DEFAULTS
        | {
            "num_key_value_heads": 4, "moe_k": 6, "moe_num_experts": 64, "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1, "moe_layer_interval": 1,
        },
        keys=EXPERT_WIDTH | {
            "expert_shared_count": "moe_num_shared_experts",
            "leading_dense_block_count": "moe_layer_start_index",
            "interleave_moe_layer_step": "moe_layer_interval",
        },
        spelling={"expert_count": "moe_num_experts", "expert_used_count": "moe_k"},
        experts="each",
    ),
    Family(
        "qwen3vlmoe",
        ("qwen3_vl_moe_text", "qwen3_vl_moe"),
        "Qwen3VLMoeForConditionalGeneration",
        LLAMA_NAMES | QK_NORMS | ROUTER | expert_stacks("mlp"),
        {},
        QWEN3_VL_DEFAULTS,
        keys=EXPERT_WIDTH,
        experts="halves",
        back_as="qwen3_moe",
    ),
)  # fmt: skip
