"""What Hugging Face calls the tensors and numbers of each architecture, and what GGUF calls them: the one table.

Read forwards it turns a folder into a model or a GGUF file, backwards a GGUF file into a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halfbyte.convert.transforms import (
    AddOne,
    PermuteHeads,
    SplitGroups,
    SplitThirds,
    Transform,
    Transpose,
)

Config = Mapping[str, Any]

# GGUF key (after "<architecture>.") -> names in config.json, the usual one first.
KEYS: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers", "n_layer", "num_layers"),
    "embedding_length": ("hidden_size", "n_embd"),
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "vocab_size": ("vocab_size",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
}

_LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
_QK_NORMS = {
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
}
_POST_NORMS = {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
_GEMMA2_NAMES = _LLAMA_NAMES | _POST_NORMS | {"model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm"}


def _without(names: Mapping[str, str], *endings: str) -> dict[str, str]:
    return {theirs: ours for theirs, ours in names.items() if not theirs.endswith(endings)}


_PERMUTED: dict[str, Transform] = {"attn_q": PermuteHeads("heads"), "attn_k": PermuteHeads("kv_heads")}
_ROUTER = {"model.layers.{}.mlp.gate": "blk.{}.ffn_gate_inp"}


def _experts(prefix: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> dict[str, str]:
    """Stacks of experts under the plain names of experts.py."""
    names = {gate: "ffn_gate_exps", up: "ffn_up_exps", down: "ffn_down_exps"}
    return {f"model.layers.{{}}.{prefix}.experts.{theirs}": f"blk.{{}}.{ours}" for theirs, ours in names.items()}


def _shared(stem: str) -> dict[str, str]:
    return {f"model.layers.{{}}.{stem}.{kind}_proj": f"blk.{{}}.ffn_{kind}_shexp" for kind in ("gate", "up", "down")}


_NORMS_PLUS_ONE: dict[str, Transform] = {
    stem: AddOne()
    for stem in (
        "output_norm", "attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One architecture in both tongues."""

    arch: str  # general.architecture
    model_types: tuple[str, ...]  # model_type of config.json; the first is written when going back
    class_name: str  # "architectures" of config.json
    names: Mapping[str, str]  # their stem -> ours; {} is the layer's number
    transforms: Mapping[str, Transform] = field(default_factory=dict)  # our stem without blk.N. -> what is done to it
    # What configs leave out: the values that transformers gives a config of this type.
    defaults: Config = field(default_factory=dict)
    # More (GGUF key, config name) pairs than KEYS.
    keys: Mapping[str, str] = field(default_factory=dict)
    # Config names where a family's own differ from the first of KEYS; used when going back.
    spelling: Mapping[str, str] = field(default_factory=dict)
    rms: bool = True  # which of the two epsilons the family has
    rope: bool = True
    activations: tuple[str, ...] = ("silu", "swish")  # hidden_act values that mean the architecture's activation
    full_attention_every: int = 0  # of so many layers the last sees everything, the others a window
    # How folders hold experts: "each" one by one, gate and up in "halves" of one tensor, or "turned": (columns, rows),
    # gate and up in turns. Empty: there are none.
    experts: str = ""

    def config_name(self, key: str) -> str:
        """What config.json of this family calls a GGUF key."""
        return self.keys.get(key) or self.spelling.get(key) or KEYS[key][0]


_GRANITE_KEYS = {
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
_EXPERT_WIDTH = {"expert_feed_forward_length": "moe_intermediate_size"}
_EXPERTS_NORMALIZED = {"expert_weights_norm": "norm_topk_prob"}
_LOCAL_EXPERTS = {"expert_count": "num_local_experts"}
_GRANITE_MOE_NAMES = (
    _LLAMA_NAMES
    | {"model.layers.{}.block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp"}
    | _experts("block_sparse_moe")
)
_GELU_TANH = ("gelu_pytorch_tanh", "gelu_new")
_LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048}
_GPT2_SPELLING = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "context_length": "n_positions",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}

FAMILIES: tuple[Family, ...] = (
    Family("llama", ("llama",), "LlamaForCausalLM", _LLAMA_NAMES, _PERMUTED, _LLAMA_DEFAULTS),
    Family(
        "llama",
        ("mistral",),
        "MistralForCausalLM",
        _LLAMA_NAMES,
        _PERMUTED,
        _LLAMA_DEFAULTS | {"num_key_value_heads": 8, "max_position_embeddings": 131072},
        keys={"attention.sliding_window": "sliding_window"},
    ),
    Family("qwen2", ("qwen2",), "Qwen2ForCausalLM", _LLAMA_NAMES, {}, _LLAMA_DEFAULTS | {"max_position_embeddings": 32768}),
    Family(
        "qwen3",
        ("qwen3",),
        "Qwen3ForCausalLM",
        _LLAMA_NAMES | _QK_NORMS,
        {},
        _LLAMA_DEFAULTS | {"head_dim": 128, "max_position_embeddings": 32768},
    ),
    Family(
        "gemma",
        ("gemma",),
        "GemmaForCausalLM",
        _LLAMA_NAMES,
        _NORMS_PLUS_ONE,
        _LLAMA_DEFAULTS | {"head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
        activations=(*_GELU_TANH, "gelu"),  # the first configs said gelu and meant the other
    ),
    Family(
        "gemma2",
        ("gemma2",),
        "Gemma2ForCausalLM",
        _GEMMA2_NAMES,
        _NORMS_PLUS_ONE,
        _LLAMA_DEFAULTS
        | {
            "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 8192,
            "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0, "tie_word_embeddings": True,
        },
        keys={
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        activations=_GELU_TANH,
        full_attention_every=2,
    ),
    Family(
        "gemma3",
        ("gemma3_text", "gemma3"),
        "Gemma3ForCausalLM",
        _GEMMA2_NAMES | _QK_NORMS,
        _NORMS_PLUS_ONE,
        {
            "rms_norm_eps": 1e-6, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4,
            "max_position_embeddings": 131072, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "rope_theta": 1000000.0, "tie_word_embeddings": True,
        },
        keys={"attention.sliding_window": "sliding_window"},
        activations=_GELU_TANH,
        full_attention_every=6,
    ),
    Family(
        "phi3",
        ("phi3",),
        "Phi3ForCausalLM",
        _without(_LLAMA_NAMES, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
        | {"model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv", "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"},
        {},
        {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096},
        keys={"attention.sliding_window": "sliding_window"},
    ),
    Family(
        "olmo2",
        ("olmo2",),
        "Olmo2ForCausalLM",
        _without(_LLAMA_NAMES, "input_layernorm") | _QK_NORMS | _POST_NORMS,
        {},
        {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048},
    ),
    Family(
        "granite",
        ("granite",),
        "GraniteForCausalLM",
        _LLAMA_NAMES,
        _PERMUTED,
        _LLAMA_DEFAULTS,
        keys=_GRANITE_KEYS,
    ),
    Family(
        "granitemoe",
        ("granitemoe",),
        "GraniteMoeForCausalLM",
        _GRANITE_MOE_NAMES,
        _PERMUTED,
        _LLAMA_DEFAULTS,
        keys=_GRANITE_KEYS,
        spelling=_LOCAL_EXPERTS,
        experts="halves",
    ),
    Family(
        "granitemoe",
        ("granitemoeshared",),
        "GraniteMoeSharedForCausalLM",
        _GRANITE_MOE_NAMES | _shared("shared_mlp"),
        _PERMUTED,
        _LLAMA_DEFAULTS,
        keys=_GRANITE_KEYS | {"expert_shared_feed_forward_length": "shared_intermediate_size"},
        spelling=_LOCAL_EXPERTS,
        experts="halves",
    ),
    Family(
        "llama",
        ("mixtral",),
        "MixtralForCausalLM",
        _LLAMA_NAMES | {"model.layers.{}.block_sparse_moe.gate": "blk.{}.ffn_gate_inp"} | _experts("block_sparse_moe", "w1", "w3", "w2"),
        _PERMUTED,
        {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "num_key_value_heads": 8, "max_position_embeddings": 131072,
         "num_local_experts": 8, "num_experts_per_tok": 2},
        keys={"attention.sliding_window": "sliding_window"},
        spelling=_LOCAL_EXPERTS,
        experts="each",
    ),
    Family(
        "qwen2moe",
        ("qwen2_moe",),
        "Qwen2MoeForCausalLM",
        _LLAMA_NAMES | _ROUTER | _experts("mlp") | _shared("mlp.shared_expert")
        | {"model.layers.{}.mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp"},
        {},
        _LLAMA_DEFAULTS | {"max_position_embeddings": 32768, "norm_topk_prob": False},
        keys=_EXPERT_WIDTH | _EXPERTS_NORMALIZED | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        experts="each",
    ),
    Family(
        "qwen3moe",
        ("qwen3_moe",),
        "Qwen3MoeForCausalLM",
        _LLAMA_NAMES | _QK_NORMS | _ROUTER | _experts("mlp"),
        {},
        _LLAMA_DEFAULTS | {"max_position_embeddings": 32768, "norm_topk_prob": False},
        keys=_EXPERT_WIDTH | _EXPERTS_NORMALIZED,
        experts="each",
    ),
    Family(
        "olmoe",
        ("olmoe",),
        "OlmoeForCausalLM",
        _LLAMA_NAMES | _QK_NORMS | _ROUTER | _experts("mlp"),
        {},
        {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "norm_topk_prob": False},
        keys=_EXPERTS_NORMALIZED,
        experts="each",
    ),
    Family(
        "gpt-oss",
        ("gpt_oss",),
        "GptOssForCausalLM",
        _LLAMA_NAMES | _experts("mlp")
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
        spelling=_LOCAL_EXPERTS,
        full_attention_every=2,
        experts="turned",
    ),
    Family(
        "smollm3",
        ("smollm3",),
        "SmolLM3ForCausalLM",
        _LLAMA_NAMES,
        _PERMUTED,
        {
            "rms_norm_eps": 1e-6, "rope_theta": 2000000.0, "max_position_embeddings": 32768, "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
    ),
    Family(
        "starcoder2",
        ("starcoder2",),
        "Starcoder2ForCausalLM",
        _without(_LLAMA_NAMES, "gate_proj", "up_proj", "down_proj")
        | {"model.layers.{}.mlp.c_fc": "blk.{}.ffn_up", "model.layers.{}.mlp.c_proj": "blk.{}.ffn_down"},
        {},
        {
            "norm_epsilon": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        keys={"attention.sliding_window": "sliding_window"},
        spelling={"attention.layer_norm_epsilon": "norm_epsilon"},
        rms=False,
        activations=_GELU_TANH,
    ),
    Family(
        "gpt2",
        ("gpt2",),
        "GPT2LMHeadModel",
        {
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
        },
        {stem: Transpose() for stem in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")},
        {"layer_norm_epsilon": 1e-5, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "tie_word_embeddings": True},
        spelling=_GPT2_SPELLING,
        rms=False,
        rope=False,
        activations=_GELU_TANH,
    ),
    Family(
        "phi2",
        ("phi",),
        "PhiForCausalLM",
        _without(_LLAMA_NAMES, "model.norm", "o_proj", "post_attention_layernorm", "gate_proj", "up_proj", "down_proj")
        | {
            "model.final_layernorm": "output_norm",
            "model.layers.{}.self_attn.dense": "blk.{}.attn_output",
            "model.layers.{}.mlp.fc1": "blk.{}.ffn_up",
            "model.layers.{}.mlp.fc2": "blk.{}.ffn_down",
        },
        {},
        {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "max_position_embeddings": 2048},
        rms=False,
        activations=_GELU_TANH,
    ),
    Family(
        "gptneox",
        ("gpt_neox",),
        "GPTNeoXForCausalLM",
        {
            "gpt_neox.embed_in": "token_embd",
            "gpt_neox.final_layer_norm": "output_norm",
            "embed_out": "output",
            "lm_head": "output",
            "gpt_neox.layers.{}.input_layernorm": "blk.{}.attn_norm",
            "gpt_neox.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
            "gpt_neox.layers.{}.attention.query_key_value": "blk.{}.attn_qkv",
            "gpt_neox.layers.{}.attention.dense": "blk.{}.attn_output",
            "gpt_neox.layers.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
            "gpt_neox.layers.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
        },
        {"attn_qkv": SplitThirds()},
        {
            "layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rope_theta": 10000.0, "max_position_embeddings": 2048,
            "use_parallel_residual": True,
        },
        keys={"use_parallel_residual": "use_parallel_residual"},
        rms=False,
        activations=("gelu",),
    ),
    Family(
        "falcon",
        ("falcon", "RefinedWeb", "RefinedWebModel"),
        "FalconForCausalLM",
        {
            "transformer.word_embeddings": "token_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            "transformer.h.{}.input_layernorm": "blk.{}.attn_norm",
            "transformer.h.{}.ln_attn": "blk.{}.attn_norm_2",
            "transformer.h.{}.ln_mlp": "blk.{}.attn_norm",
            "transformer.h.{}.self_attention.query_key_value": "blk.{}.attn_qkv",
            "transformer.h.{}.self_attention.dense": "blk.{}.attn_output",
            "transformer.h.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
            "transformer.h.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
        },
        {"attn_qkv": SplitGroups()},
        {"layer_norm_epsilon": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": True},
        spelling={"attention.layer_norm_epsilon": "layer_norm_epsilon", "attention.head_count_kv": "num_kv_heads"},
        rms=False,
        activations=("gelu",),
    ),
)  # fmt: skip


def family_of_type(model_type: str) -> Family | None:
    """The family of config.json's model_type, or None."""
    return next((f for f in FAMILIES if model_type in f.model_types), None)


def family_of_arch(arch: str) -> Family | None:
    """The (first) family of general.architecture, or None."""
    return next((f for f in FAMILIES if f.arch == arch), None)
