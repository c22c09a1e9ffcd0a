"""config.json -> the numbers of GGUF metadata, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from halfbyte.convert.family import KEYS, Config, Family
from halfbyte.convert.transforms import Heads
from halfbyte.errors import FormatError, HalfbyteError, UnsupportedError


@contextmanager
def config_values(where: str = "config.json") -> Iterator[None]:
    """Around what reads a model's numbers: a value of a kind that they cannot have is the file's fault."""
    try:
        yield
    except HalfbyteError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(
            f"{where} holds a value that it cannot have: {error}.", hint="Fetch the model again."
        ) from error


def value_of(family: Family, config: Config, key: str) -> Any:
    """What config.json (else its type's defaults) says of a GGUF key, or None."""
    names = (family.config_name(key), *KEYS.get(key, ()))
    for source in (config, family.defaults):
        for name in names:
            if source.get(name) is not None:
                return source[name]
    return None


def _required(family: Family, config: Config, key: str) -> int:
    value = value_of(family, config, key)
    if isinstance(value, list) and value and value.count(value[0]) == len(value):  # the same for every layer
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(f"config.json: {family.config_name(key)} is {value!r}; a count was expected.")
    return value


def _number(family: Family, config: Config, name: str) -> int:
    value = config.get(name, family.defaults.get(name))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(f"config.json: {name} is {value!r}; a count was expected.")
    return value


def heads_of(family: Family, config: Config) -> Heads:
    """Heads of queries, and of keys and values."""
    heads = _required(family, config, "attention.head_count")
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return Heads(heads, 1)
    kv_heads = value_of(family, config, "attention.head_count_kv")
    kv_heads = heads if kv_heads is None else _required(family, config, "attention.head_count_kv")
    if heads % kv_heads:
        raise FormatError(f"config.json: {heads} heads are no multiple of {kv_heads} kv heads.")
    return Heads(heads, kv_heads)


def _rope_of(family: Family, config: Config, kind: str = "full_attention") -> dict[str, Any]:
    """Rope parameters under their newest names: {rope_theta, rope_type, factor, ...}."""
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        rope = dict(rope[kind]) if isinstance(rope.get(kind), dict) else dict(rope)
    else:
        scaling = config.get("rope_scaling")
        rope = dict(scaling) if isinstance(scaling, dict) else {}
        if kind == "sliding_attention":
            rope = {"rope_theta": config.get("rope_local_base_freq", 10000.0)}
    rope.setdefault("rope_theta", config.get("rope_theta") or family.defaults.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def hyperparameters(family: Family, config: Config) -> dict[str, Any]:
    """The metadata that says what the model is: {"llama.block_count": 32, ...}. Raises FormatError or UnsupportedError
    for what the engine does not compute."""
    _refuse(family, config)
    heads = heads_of(family, config)
    width = _required(family, config, "embedding_length")
    head_dim = value_of(family, config, "attention.key_length")
    out: dict[str, Any] = {
        "block_count": _required(family, config, "block_count"),
        "embedding_length": width,
        "context_length": _required(family, config, "context_length"),
        "feed_forward_length": value_of(family, config, "feed_forward_length") or 4 * width,
        "attention.head_count": heads.heads,
        "attention.head_count_kv": heads.kv_heads,
    }
    if "kv_lora_rank" in family.defaults:
        turning, still = (_number(family, config, f"qk_{part}_head_dim") for part in ("rope", "nope"))
        head_dim = turning
        out["attention.key_length"] = turning + still
    elif head_dim is not None:
        out["attention.key_length"] = out["attention.value_length"] = head_dim
    epsilon = "attention.layer_norm_rms_epsilon" if family.rms else "attention.layer_norm_epsilon"
    out[epsilon] = float(value_of(family, config, epsilon) or 1e-5)
    if isinstance(config.get("vocab_size"), int):
        out["vocab_size"] = config["vocab_size"]
    for key in ("expert_count", "expert_used_count") if has_experts(family, config) else ():
        out[key] = _required(family, config, key)
    for key, name in family.keys.items():
        value = config.get(name, family.defaults.get(name))
        if value is not None:
            out[key] = _required(family, config, key) if isinstance(value, list) else value
    if "scale_depth" in family.defaults:  # two multipliers of MiniCPM are said by what makes them
        depth, base = (float(config.get(n) or family.defaults[n]) for n in ("scale_depth", "dim_model_base"))
        out["residual_scale"] = depth / math.sqrt(out["block_count"])
        out["logit_scale"] = width / base
    if "expert_gating_func" in out:
        out["expert_gating_func"] = _SCORINGS[out["expert_gating_func"]]
    if config.get("topk_method") == "greedy":  # groups are there, but none is left out
        out = {key: value for key, value in out.items() if not key.startswith("expert_group_")}
    if "expert_shared_count" in out and "expert_feed_forward_length" in out:  # several shared experts are one wide one
        out["expert_shared_feed_forward_length"] = out["expert_shared_count"] * out["expert_feed_forward_length"]
    if family.more_metadata is not None:
        out |= family.more_metadata(config)
    if family.rope and "rope.freq_base" not in out:
        out |= _rope_metadata(family, config, head_dim or width // heads.heads)
    scalar = config.get("query_pre_attn_scalar", family.defaults.get("query_pre_attn_scalar"))
    if scalar and scalar != head_dim:
        out["attention.scale"] = float(scalar) ** -0.5
    return {f"{family.arch}.{key}": value for key, value in out.items()} | _layer_pattern(family, config)


def has_experts(family: Family, config: Config) -> bool:
    """Whether a model is a mixture of experts: all of its family's, unless the config says otherwise."""
    return bool(family.experts) and config.get("enable_moe_block") is not False


# What configs call the ways to score experts -> GGUF's numbers.
_SCORINGS = {"softmax": 1, "sigmoid": 2, "noaux_tc": 2}
# Architectures whose YaRN ramp does not begin and end at whole pairs, unless the file says so.
_UNTRUNCATED = ("gpt-oss",)
# What the share of YaRN's logarithm is counted in, where files tell it.
_LOG_UNIT = {"mistral3": 1.0, "deepseek2": 0.1}
# Architectures whose layers with a window have a rope of their own in folders.
_WINDOWS_UNSTRETCHED = ("olmo2",)


# Architectures whose layers with a window turn by a base of their own.
_WINDOWS_TURN_FASTER = ("gemma3", "gemma3n")


def _rope_metadata(family: Family, config: Config, head_dim: int) -> dict[str, Any]:
    rope = _rope_of(family, config)
    sources = [
        (s, n) for s in (rope, config, family.defaults) for n in ("partial_rotary_factor", "rotary_pct", "rope_pct")
    ]
    part = next((s[n] for s, n in sources if s.get(n)), 1.0)
    out: dict[str, Any] = {"rope.dimension_count": int(head_dim * part), "rope.freq_base": float(rope["rope_theta"])}
    if family.arch in _WINDOWS_TURN_FASTER:
        out["rope.freq_base_swa"] = float(_rope_of(family, config, "sliding_attention")["rope_theta"])
    sections = rope.get("mrope_section") or family.defaults.get("mrope_section")
    if sections and family.back_as:
        out["rope.dimension_sections"] = [*sections, *[0] * (4 - len(sections))]
    if isinstance(config.get("rotary_dim"), int):
        out["rope.dimension_count"] = config["rotary_dim"]
    kind = rope["rope_type"]
    if kind == "dynamic" and rope.get("alpha"):
        out["rope.freq_base"] *= float(rope["alpha"]) ** (head_dim / (head_dim - 2))
    factor = float(rope.get("factor") or 1.0)
    context = _required(family, config, "context_length")
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or context
    if kind == "linear":
        out |= {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
    elif kind == "yarn":
        out |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": int(original),
        }
        out |= {f"rope.scaling.yarn_{name}": float(rope[name]) for name in ("beta_fast", "beta_slow") if rope.get(name)}
        if rope.get("truncate", True) != (family.arch not in _UNTRUNCATED):
            out["rope.scaling.yarn_truncate"] = bool(rope.get("truncate", True))
        if rope.get("llama_4_scaling_beta"):
            out["attention.temperature_scale"] = float(rope["llama_4_scaling_beta"])
            out["attention.temperature_length"] = int(original)
        out |= _yarn_magnitude(family, rope, factor)
    elif kind in ("longrope", "su"):
        stretch = max(1.0, context / original)
        magnitude = rope.get("attention_factor") or math.sqrt(1 + math.log(stretch) / math.log(original))
        out |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": int(original),
            "rope.scaling.attn_factor": float(magnitude),
        }
    # Dynamic scaling begins past the trained context only; of text all positions of mrope are the same.
    elif kind not in ("default", "llama3", "dynamic", "mrope"):
        raise UnsupportedError(
            f'config.json asks for rope of type "{kind}".', hint="Known are linear, yarn, longrope and llama3."
        )
    return out


def _yarn_magnitude(family: Family, rope: dict[str, Any], factor: float) -> dict[str, Any]:
    """What makes queries and keys longer where YaRN stretches: GGUF tells it as a multiple of 1 + 0.1 ln(factor), or, of
    some architectures, as the share of the logarithm that a second magnitude has."""
    own, second, magnitude = rope.get("mscale"), rope.get("mscale_all_dim"), rope.get("attention_factor")
    if family.arch in _LOG_UNIT and second:
        if own != (second if "kv_lora_rank" in family.defaults else 1.0) or magnitude:
            raise UnsupportedError(f"config.json: YaRN with mscale = {own} and mscale_all_dim = {second}.")
        return {"rope.scaling.yarn_log_multiplier": float(second) * _LOG_UNIT[family.arch]}
    if not magnitude and own and second:
        magnitude = (1 + 0.1 * own * math.log(factor)) / (1 + 0.1 * second * math.log(factor))
    return {"rope.scaling.attn_factor": float(magnitude) / (1 + 0.1 * math.log(factor))} if magnitude else {}


def rope_tensors(family: Family, config: Config) -> dict[str, npt.NDArray[np.float32]]:
    """Rope factors that GGUF keeps as tensors."""
    if not family.rope:
        return {}
    rope = _rope_of(family, config)
    if rope["rope_type"] in ("longrope", "su"):
        return {f"rope_factors_{k}.weight": np.asarray(rope[f"{k}_factor"], np.float32) for k in ("long", "short")}
    more = family.more_metadata(config) if family.more_metadata is not None else {}
    if "rope.dimension_count" in more:  # pairs past the part that turns stand still
        pairs = more["rope.dimension_count"] // 2
        turning = int(rope.get("partial_rotary_factor", 0.25) * pairs)
        return {"rope_freqs.weight": np.where(np.arange(pairs) < turning, 1.0, 1e30).astype(np.float32)}
    if rope["rope_type"] != "llama3":
        return {}
    head_dim = value_of(family, config, "attention.key_length")
    head_dim = head_dim or _required(family, config, "embedding_length") // heads_of(family, config).heads
    wavelengths = 2 * np.pi * float(rope["rope_theta"]) ** (np.arange(0, head_dim, 2) / head_dim)
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)}


def _layer_pattern(family: Family, config: Config) -> dict[str, Any]:
    """Which layers see a window, where that is not the architecture's usual order."""
    kinds, period = config.get("layer_types"), family.full_attention_every
    has_window = config.get("sliding_window", family.defaults.get("sliding_window"))
    if not period or not has_window or not isinstance(kinds, list):
        return {}
    usual = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(len(kinds))]
    key = f"{family.arch}.attention.sliding_window_pattern"
    return {} if kinds == usual else {key: [kind == "sliding_attention" for kind in kinds]}


def _refuse(family: Family, config: Config) -> None:
    """Variants of a family that its architecture does not compute must not run wrongly."""
    activation = config.get("hidden_activation") or config.get("hidden_act") or config.get("activation_function")
    activation = activation or config.get("activation")
    if activation is not None and activation not in family.activations:
        raise UnsupportedError(
            f'config.json: {family.model_types[0]} models with activation "{activation}" are not supported.',
            hint=f"Supported: {', '.join(family.activations)}.",
        )
    intervals = config.get("no_rope_layer_interval", 4), config.get("no_rope_layers")
    usual = [int((i + 1) % 4 != 0) for i in range(len(intervals[1] or ()))]
    refused = {
        "alibi": config.get("alibi") is True,
        "use_sliding_window": config.get("use_sliding_window") is True,
        "clip_qkv": config.get("clip_qkv") is not None,
        "attention_bias": "kv_lora_rank" in family.defaults and config.get("attention_bias") is True,
        "rope_interleave": config.get("rope_interleave") is False,
        "swiglu_alpha": config.get("swiglu_alpha", 1.702) != 1.702,
        "swiglu_limit": config.get("swiglu_limit", 7.0) != 7.0,
        "no_rope_layers": family.arch == "smollm3" and (intervals[0] != 4 or (intervals[1] or usual) != usual),
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise UnsupportedError(f"config.json: {name} = {config.get(name)!r} is not supported.")


def with_multipliers(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a file with MiniCPM's multipliers, which early files leave to their readers."""
    if metadata.get("general.architecture") != "minicpm":
        return metadata
    n_layers, width = (metadata.get(f"minicpm.{key}") for key in ("block_count", "embedding_length"))
    if not isinstance(n_layers, int) or not isinstance(width, int) or n_layers < 1 or width < 1:
        raise FormatError("minicpm.block_count and minicpm.embedding_length are no counts.")
    usual = {"embedding_scale": 12.0, "residual_scale": 1.4 / math.sqrt(n_layers), "logit_scale": width / 256}
    return {f"minicpm.{key}": value for key, value in usual.items()} | metadata


# Architectures whose chosen experts' weights sum to 1, unless the file says otherwise.
_NORMALIZED = ("qwen3moe", "glm4moe")


def scoring_of(gating: Any) -> str:
    """What configs call a GGUF file's expert_gating_func."""
    return "sigmoid" if gating == _SCORINGS["sigmoid"] else "softmax"


def config_of(
    family: Family, metadata: dict[str, Any], *, tied: bool, tensors: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """config.json of a GGUF file's metadata, and of its tensors: hyperparameters() backwards."""

    def get(key: str) -> Any:
        return metadata.get(f"{family.arch}.{key}")

    out: dict[str, Any] = {"architectures": [family.class_name], "model_type": family.model_types[0]}
    epsilon = "attention.layer_norm_rms_epsilon" if family.rms else "attention.layer_norm_epsilon"
    skipped = {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"} - {epsilon}
    for key in (*KEYS, *family.keys):
        value = get(key)
        if value is not None and key not in skipped:
            out[family.config_name(key)] = value
    if "expert_weights_norm" in family.keys:  # which common converters leave out
        out.setdefault(family.config_name("expert_weights_norm"), family.arch in _NORMALIZED)
    if "attention.scale" in family.keys:
        head_dim = out.get("head_dim") or out["hidden_size"] // out["num_attention_heads"]
        out.setdefault(family.config_name("attention.scale"), head_dim**-0.5)
    if "scoring_func" in out:
        out["scoring_func"] = scoring_of(out["scoring_func"])
    if "topk_method" in family.defaults and get("expert_group_count"):
        out["topk_method"] = "group_limited_greedy"
    if "kv_lora_rank" in family.defaults:
        turning = get("rope.dimension_count")
        whole, values = (
            get(f"attention.{part}_length_mla") or get(f"attention.{part}_length") for part in ("key", "value")
        )
        if None in (turning, whole, values):
            raise FormatError(f"The file does not say how wide the heads of its {family.arch} model are.")
        out.pop("head_dim", None)
        out |= {"qk_rope_head_dim": turning, "qk_nope_head_dim": whole - turning, "v_head_dim": values}
        out |= {"num_key_value_heads": out["num_attention_heads"], "q_lora_rank": out.get("q_lora_rank")}
    out["hidden_act" if family.rope else "activation_function"] = family.activations[0]
    if "query_pre_attn_scalar" in family.defaults:
        out["hidden_activation"] = out.pop("hidden_act")
        scale = get("attention.scale")
        out["query_pre_attn_scalar"] = round(scale**-2) if scale else out.get("head_dim")
    out["tie_word_embeddings"] = tied
    pattern = get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        out["layer_types"] = ["sliding_attention" if flag else "full_attention" for flag in pattern]
    if family.full_attention_every and not get("attention.sliding_window"):
        out |= {"sliding_window": None, "layer_types": ["full_attention"] * get("block_count")}
    if family.more_config is not None:
        out |= family.more_config(metadata, tensors or {})
    if family.rope and "rope_parameters" not in out:
        out |= _rope_config(family, metadata, out)
    for name in ("bos", "eos", "pad"):
        out[f"{name}_token_id"] = metadata.get(f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id")
    return out


def _rope_config(family: Family, metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"{family.arch}.rope.{key}", default)

    out: dict[str, Any] = {"rope_theta": get("freq_base", 10000.0)}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if get("dimension_count", head_dim) != head_dim and "kv_lora_rank" not in family.defaults:
        part = get("dimension_count") / head_dim
        out["rotary_pct" if "rotary_pct" in family.defaults else "partial_rotary_factor"] = part
    if get("freq_base_swa"):
        out["rope_local_base_freq"] = get("freq_base_swa")
    kind = get("scaling.type", "none")
    if kind == "linear":
        out["rope_scaling"] = {"rope_type": "linear", "factor": get("scaling.factor", 1.0)}
    elif kind == "yarn":
        factor = get("scaling.factor", 1.0)
        out["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": get("scaling.original_context_length"),
            "attention_factor": get("scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(factor)),
            "beta_fast": get("scaling.yarn_beta_fast", 32.0),
            "beta_slow": get("scaling.yarn_beta_slow", 1.0),
            "truncate": get("scaling.yarn_truncate", family.arch not in _UNTRUNCATED),
        }
        if share := get("scaling.yarn_log_multiplier"):
            del out["rope_scaling"]["attention_factor"]
            share /= _LOG_UNIT[family.arch]
            whole = share if "kv_lora_rank" in family.defaults else 1.0
            out["rope_scaling"] |= {"mscale": whole, "mscale_all_dim": share}
        if grows := metadata.get(f"{family.arch}.attention.temperature_scale"):
            out["rope_scaling"]["llama_4_scaling_beta"] = grows
    elif kind == "longrope":
        out["rope_scaling"] = {"rope_type": "longrope", "attention_factor": get("scaling.attn_factor", 1.0)}
        out["original_max_position_embeddings"] = get("scaling.original_context_length")
    if family.arch in _WINDOWS_UNSTRETCHED and family.full_attention_every:
        plain = {"rope_type": "default", "rope_theta": out["rope_theta"]}
        out["rope_parameters"] = {
            "full_attention": plain | out.pop("rope_scaling", {}),
            "sliding_attention": plain,
        }
    return out
