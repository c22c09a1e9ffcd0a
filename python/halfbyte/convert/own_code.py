"""The table of architectures: those whose folders bring code of their own. Folders made of their files are of a model
that is the same and that libraries know."""

from __future__ import annotations

from halfbyte.convert.family import LLAMA_DEFAULTS, LLAMA_NAMES, PERMUTED, Family

OWN_CODE: tuple[Family, ...] = (
    Family(
        "exaone",
        ("exaone",),
        "ExaoneForCausalLM",
        {
            "transformer.wte": "token_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            "transformer.h.{}.ln_1": "blk.{}.attn_norm",
            "transformer.h.{}.attn.attention.q_proj": "blk.{}.attn_q",
            "transformer.h.{}.attn.attention.k_proj": "blk.{}.attn_k",
            "transformer.h.{}.attn.attention.v_proj": "blk.{}.attn_v",
            "transformer.h.{}.attn.attention.out_proj": "blk.{}.attn_output",
            "transformer.h.{}.ln_2": "blk.{}.ffn_norm",
            "transformer.h.{}.mlp.c_fc_0": "blk.{}.ffn_gate",
            "transformer.h.{}.mlp.c_fc_1": "blk.{}.ffn_up",
            "transformer.h.{}.mlp.c_proj": "blk.{}.ffn_down",
        },
        {},
        {"layer_norm_epsilon": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": True},
        spelling={"block_count": "num_layers", "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
        back_as="llama",
    ),
    Family(
        "internlm2",
        ("internlm2",),
        "InternLM2ForCausalLM",
        {
            "model.tok_embeddings": "token_embd",
            "model.norm": "output_norm",
            "output": "output",
            "model.layers.{}.attention_norm": "blk.{}.attn_norm",
            "model.layers.{}.attention.wq": "blk.{}.attn_q",
            "model.layers.{}.attention.wk": "blk.{}.attn_k",
            "model.layers.{}.attention.wv": "blk.{}.attn_v",
            "model.layers.{}.attention.wo": "blk.{}.attn_output",
            "model.layers.{}.ffn_norm": "blk.{}.ffn_norm",
            "model.layers.{}.feed_forward.w1": "blk.{}.ffn_gate",
            "model.layers.{}.feed_forward.w3": "blk.{}.ffn_up",
            "model.layers.{}.feed_forward.w2": "blk.{}.ffn_down",
        },
        PERMUTED,
        LLAMA_DEFAULTS,
        back_as="llama",
        grouped={"attention.wqkv": ("attention.wq", "attention.wk", "attention.wv")},
    ),
    Family(
        "minicpm",
        ("minicpm",),
        "MiniCPMForCausalLM",
        LLAMA_NAMES,
        PERMUTED,
        LLAMA_DEFAULTS | {"scale_emb": 1, "scale_depth": 1, "dim_model_base": 1, "tie_word_embeddings": True},
        keys={"embedding_scale": "scale_emb"},
        back_as="granite",
    ),
)  # fmt: skip
