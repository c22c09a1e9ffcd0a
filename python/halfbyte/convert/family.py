"""What a row of the table of architectures says, and what many rows share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from halfbyte.convert.tensors import Planned, Weight
from halfbyte.convert.transforms import (
    AddOne,
    PermuteHeads,
    Transform,
)
from halfbyte.errors import FormatError

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
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "expert_used_count": ("num_experts_per_tok", "moe_k"),
}

LLAMA_NAMES = {
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
QK_NORMS = {
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
}
POST_NORMS = {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
GEMMA2_NAMES = LLAMA_NAMES | POST_NORMS | {"model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm"}
# A second embedding, which has a row for each layer.
PER_LAYER_NAMES = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    "model.layers.{}.per_layer_input_gate": "blk.{}.inp_gate",
    "model.layers.{}.per_layer_projection": "blk.{}.proj",
    "model.layers.{}.post_per_layer_input_norm": "blk.{}.post_norm",
}


def without(names: Mapping[str, str], *endings: str) -> dict[str, str]:
    return {theirs: ours for theirs, ours in names.items() if not theirs.endswith(endings)}


PERMUTED: dict[str, Transform] = {"attn_q": PermuteHeads("heads"), "attn_k": PermuteHeads("kv_heads")}
ROUTER = {"model.layers.{}.mlp.gate": "blk.{}.ffn_gate_inp"}


def expert_stacks(prefix: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> dict[str, str]:
    """Stacks of experts under the plain names of experts.py."""
    names = {gate: "ffn_gate_exps", up: "ffn_up_exps", down: "ffn_down_exps"}
    return {f"model.layers.{{}}.{prefix}.experts.{theirs}": f"blk.{{}}.{ours}" for theirs, ours in names.items()}


def shared_expert(stem: str) -> dict[str, str]:
    return {f"model.layers.{{}}.{stem}.{kind}_proj": f"blk.{{}}.ffn_{kind}_shexp" for kind in ("gate", "up", "down")}


NORMS_PLUS_ONE: dict[str, Transform] = {
    stem: AddOne()
    for stem in (
        "output_norm", "attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm",
    )
}  # fmt: skip


_MOST_LAYERS = 2048  # as the engine's


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
    # How folders hold experts: "each" one by one, gate and up in "halves" of one tensor, or in "turns": row by row, of
    # (columns, rows). Empty: there are none.
    experts: str = ""
    # model_type of the folders made of its files, where another one is the same model: what speaks in a larger model, or
    # one whose folders bring code of their own.
    back_as: str = ""
    # Their stem of queries, keys and values in one matrix, group by group -> the stems of the three in `names`.
    grouped: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    # tokenizer.ggml.model of files whose vocabularies keep their merges instead of scores.
    merging: str = ""
    # Matrices of ours that not every layer has.
    in_some_layers: tuple[str, ...] = ()
    # What the keys do not say: GGUF keys and values of a config, and what a config says beside those of metadata and the
    # names of tensors.
    more_metadata: Callable[[Config], dict[str, Any]] | None = None
    more_config: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    # What is done to a checkpoint's weights, by their names there, before each finds its place alone; and backwards.
    gather: Callable[[Mapping[str, Weight], Config], dict[str, Weight]] | None = None
    scatter: Callable[[list[Planned]], list[Planned]] | None = None

    def config_name(self, key: str) -> str:
        """What config.json of this family calls a GGUF key."""
        return self.keys.get(key) or self.spelling.get(key) or KEYS[key][0]

    def count(self, config: Config, name: str, *, least: int = 1, most: int = 1 << 24) -> int:
        """A count of a config, or the family's own where it says nothing. Raises FormatError for any other value."""
        value = config.get(name)
        if value is None:
            value = self.defaults[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FormatError(f"config.json: {name} is {value!r}; a count from {least} to {most} was expected.")
        return value

    def n_layers(self, config: Config) -> int:
        return self.count(config, "num_hidden_layers", most=_MOST_LAYERS)


# Latent attention: every head's keys and values are made of one row.
LATENT_NAMES = without(LLAMA_NAMES, "k_proj", "v_proj") | {
    "model.layers.{}.self_attn.q_a_proj": "blk.{}.attn_q_a",
    "model.layers.{}.self_attn.q_a_layernorm": "blk.{}.attn_q_a_norm",
    "model.layers.{}.self_attn.q_b_proj": "blk.{}.attn_q_b",
    "model.layers.{}.self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
    "model.layers.{}.self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
    "model.layers.{}.self_attn.kv_b_proj": "blk.{}.attn_kv_b",
}
LATENT_KEYS = {
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.value_length": "v_head_dim",
}
GRANITE_KEYS = {
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
EXPERT_WIDTH = {"expert_feed_forward_length": "moe_intermediate_size"}
EXPERTS_NORMALIZED = {"expert_weights_norm": "norm_topk_prob"}
LOCAL_EXPERTS = {"expert_count": "num_local_experts"}
GRANITE_MOE_NAMES = (
    LLAMA_NAMES
    | {
        "model.layers.{}.block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp",
        "model.layers.{}.block_sparse_moe.router": "blk.{}.ffn_gate_inp",
    }
    | expert_stacks("block_sparse_moe")
)
GELU_TANH = ("gelu_pytorch_tanh", "gelu_new")
LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048}
GRANITE_DEFAULTS = LLAMA_DEFAULTS | dict.fromkeys(GRANITE_KEYS.values(), 1.0)
GATE_UP = {"model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up"}
GLM_DEFAULTS = {
    "rms_norm_eps": 1.5625e-7, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 131072,
    "num_key_value_heads": 2, "head_dim": 128,
}  # fmt: skip
COHERE_DEFAULTS = {
    "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 8192, "logit_scale": 0.0625,
    "tie_word_embeddings": True,
}  # fmt: skip
ERNIE_DEFAULTS = {
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_VL_DEFAULTS = {
    "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "max_position_embeddings": 128000, "head_dim": 128,
    "mrope_section": [24, 20, 20],
}  # fmt: skip
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
GPT2_SPELLING = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "context_length": "n_positions",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
