"""The named mixes of llama.cpp's quantizer: which role gets which format, as data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    n_layers: int
    heads_per_kv_head: int
    n_experts: int
    has_importance: bool


@dataclass(frozen=True)
class Place:
    """A layer among the n that have its kind of tensor."""

    layer: int
    n: int
    facts: Facts

    def in_first(self, part: int) -> bool:
        """Whether the layer is in the first n/part."""
        return self.layer < self.n // part

    @property
    def deserves_more(self) -> bool:
        """The first and last eighth, and every third layer between: where errors cost most."""
        eighth = self.n // 8
        return self.layer < eighth or self.layer >= 7 * self.n // 8 or (self.layer - eighth) % 3 == 2


#: A format's name, or a function that gives one (None: the mix's base).
Rule = str | Callable[[Place], str | None]


@dataclass(frozen=True)
class Mix:
    """A file type: its id in general.file_type, the format of most matrices, and what roles get instead."""

    file_type: int
    base: str
    rules: dict[str, Rule] = field(default_factory=dict)


def _many_heads(yes: str, no: str | None = None) -> Rule:
    """yes where at least four query heads share a KV head: v is then small and read often."""
    return lambda p: yes if p.facts.heads_per_kv_head >= 4 else no


def _first(part: int, yes: str, no: str | None = None) -> Rule:
    return lambda p: yes if p.in_first(part) else no


def _first_layers(count: int, yes: str, no: str | None = None) -> Rule:
    return lambda p: yes if p.layer < count else no


def _more(yes: str) -> Rule:
    return lambda p: yes if p.deserves_more else None


def _middle(yes: str) -> Rule:
    return lambda p: yes if p.n // 8 <= p.layer < 7 * p.n // 8 else None


def _blind(rule: Rule) -> Rule:
    """The rule, but only without an importance matrix."""
    return lambda p: None if p.facts.has_importance else (rule if isinstance(rule, str) else rule(p))


def _seeing(rule: Rule) -> Rule:
    """The rule, but only with an importance matrix."""
    return lambda p: (rule if isinstance(rule, str) else rule(p)) if p.facts.has_importance else None


def _v_of_tiny(no: str) -> Rule:
    return lambda p: "Q4_K" if p.facts.heads_per_kv_head >= 4 or p.facts.n_experts >= 4 else no


def _tiny(file_type: int, base: str, v: str, o: str | None, embedding: str) -> Mix:
    """One of the mixes of one to two and a half bits; v also serves the first layers' ffn_down."""
    rules: dict[str, Rule] = {
        "head": "Q5_K", "embedding": embedding, "v": _v_of_tiny(v), "qkv": _v_of_tiny(v), "down": _first(8, v),
        "k": lambda p: "Q4_K" if p.facts.n_experts == 8 else None,
        "o": lambda p: "Q5_K" if p.facts.n_experts == 8 else o,
    }  # fmt: skip
    return Mix(file_type, base, rules)


#: Mixes by the names that users know.
MIXES: dict[str, Mix] = {
    "F32": Mix(0, "F32"),
    "F16": Mix(1, "F16"),
    "BF16": Mix(32, "BF16"),
    "Q4_0": Mix(2, "Q4_0", {"down": _seeing(_first(8, "Q4_1"))}),
    "Q4_1": Mix(3, "Q4_1"),
    "Q5_0": Mix(8, "Q5_0", {"down": _seeing(_first(8, "Q5_1"))}),
    "Q5_1": Mix(9, "Q5_1"),
    "Q8_0": Mix(7, "Q8_0", {"head": "Q8_0"}),
    "Q2_K": Mix(10, "Q2_K", {"v": _many_heads("Q4_K", "Q3_K"), "down": "Q3_K", "o": "Q3_K"}),
    "Q2_K_S": Mix(21, "Q2_K", {"v": _many_heads("Q4_K"), "down": _first(8, "Q4_K")}),
    "Q3_K_S": Mix(11, "Q3_K"),
    "Q3_K_M": Mix(12, "Q3_K", {"v": _first_layers(2, "Q5_K", "Q4_K"), "down": _first(16, "Q5_K", "Q4_K"), "o": "Q4_K"}),
    "Q3_K_L": Mix(13, "Q3_K", {"v": "Q5_K", "down": "Q5_K", "o": "Q5_K"}),
    "Q4_K_S": Mix(14, "Q4_K", {"v": _first_layers(4, "Q5_K"), "down": _first(8, "Q5_K")}),
    "Q4_K_M": Mix(15, "Q4_K", {"v": _more("Q6_K"), "down": _more("Q6_K")}),
    "Q5_K_S": Mix(16, "Q5_K"),
    "Q5_K_M": Mix(17, "Q5_K", {"v": _more("Q6_K"), "down": _more("Q6_K")}),
    "Q6_K": Mix(18, "Q6_K"),
    "IQ1_S": _tiny(24, "IQ1_S", "Q2_K", "IQ2_XXS", "Q2_K"),
    "IQ1_M": _tiny(31, "IQ1_M", "Q2_K", "IQ2_XXS", "Q2_K"),
    "IQ2_XXS": _tiny(19, "IQ2_XXS", "Q2_K", None, "Q2_K"),
    "IQ2_XS": _tiny(20, "IQ2_XS", "Q2_K", None, "Q2_K"),
    "IQ2_S": _tiny(28, "IQ2_XS", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ2_M": _tiny(29, "IQ2_S", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ3_XXS": Mix(
        23, "IQ3_XXS",
        {
            "head": "Q5_K", "embedding": "IQ3_S", "q": "IQ2_S", "k": "IQ2_S", "o": "IQ3_S",
            "v": lambda p: "Q4_K" if p.facts.heads_per_kv_head >= 4 else None if p.facts.has_importance else "IQ3_S",
            "down": _blind(_first(8, "Q4_K", "Q3_K")),
        },
    ),
    "IQ3_XS": Mix(
        22, "IQ3_S",
        {"v": _many_heads("Q4_K"), "q": "IQ3_XXS", "k": "IQ3_XXS", "gate": _middle("IQ3_XXS"), "up": _middle("IQ3_XXS")},
    ),
    "IQ3_S": Mix(26, "IQ3_S", {"v": _many_heads("Q4_K")}),
    "IQ3_M": Mix(27, "IQ3_S", {"v": "Q4_K", "o": "Q4_K", "down": _first(8, "Q4_K")}),
    "IQ4_NL": Mix(25, "IQ4_NL", {"v": _many_heads("Q5_K"), "down": _blind(_first(8, "Q5_K"))}),
    "IQ4_XS": Mix(30, "IQ4_XS", {"v": _many_heads("Q5_K"), "down": _blind(_first(8, "Q5_K"))}),
    "TQ1_0": Mix(36, "TQ1_0", {"embedding": "Q4_K"}),
    "TQ2_0": Mix(37, "TQ2_0", {"embedding": "Q4_K"}),
    "MXFP4_MOE": Mix(38, "MXFP4", {"head": "Q8_0", "embedding": "Q8_0", "dense": "Q8_0"}),
}  # fmt: skip

#: Mixes whose attention output is lifted in models of exactly eight experts.
_LIFTED_WITH_EIGHT_EXPERTS = frozenset(
    ["Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"]
)

#: What takes a format's place where its blocks of 256 do not divide a row.
_OF_32 = {
    "IQ1_S": "IQ4_NL", "IQ1_M": "IQ4_NL", "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip

_ROLES = [
    ("output.weight", "head"), ("token_embd.weight", "embedding"), ("attn_qkv.weight", "qkv"),
    ("attn_kv_b.weight", "v"), ("attn_v.weight", "v"), ("attn_k.weight", "k"), ("attn_q.weight", "q"),
    ("attn_output.weight", "o"), ("ffn_up", "up"), ("ffn_gate", "gate"), ("ffn_down", "down"),
]  # fmt: skip

_LEFT_ALONE = re.compile(
    r"_norm\.weight|ffn_gate_inp|altup|laurel|per_layer_model_proj|position_embd|token_types|ssm_conv1d|shortconv\.conv"
    r"|indexer\.[kq]_proj|time_mix_(first|[wvag][012]|decay_w|lerp_fused)|attn_rel_b|rope_f|attn_sinks"
)


def role_of(name: str) -> str:
    """A tensor's role: head, embedding, q, k, v, qkv, o, gate, up, down or other."""
    if name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight"):
        return "head" if name == "output.weight" else "embedding"
    return next((role for part, role in _ROLES[2:] if part in name), "other")


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a matrix worth making smaller. Norms, routers, positions and small mixers are not."""
    return sum(axis > 1 for axis in shape) >= 2 and name.endswith("weight") and not _LEFT_ALONE.search(name)


def format_for(mix_name: str, role: str, place: Place, *, stacked: bool) -> str:
    """The format that a mix gives a tensor; stacked: it holds several experts."""
    mix = MIXES[mix_name]
    if mix.base in ("F32", "F16", "BF16"):
        return mix.base
    if role == "head":
        return str(mix.rules.get("head", "Q6_K"))
    if "dense" in mix.rules and not stacked:
        return str(mix.rules["dense"])
    experts = place.facts.n_experts
    if experts == 8 and mix_name not in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"):
        if role in ("v", "qkv", "k"):
            return "Q8_0"
        if role == "o":
            return "Q5_K" if mix_name in _LIFTED_WITH_EIGHT_EXPERTS else mix.base
    rule = mix.rules.get(role, mix.rules.get("v") if role == "qkv" else None)
    found = rule(place) if callable(rule) else rule
    chosen = found or mix.base
    # In models of the 70B class v is an eighth of q: better bits there cost next to nothing.
    if role in ("v", "qkv") and place.facts.n_layers == 80 and place.facts.heads_per_kv_head == 8:
        chosen = "Q5_K" if chosen in ("Q3_K", "Q4_K") else chosen
    return chosen


def fitting(format_name: str, n_cols: int, block_weights: dict[str, int]) -> str:
    """The format, or what takes its place for rows that are no whole number of its blocks."""
    if n_cols % block_weights[format_name] == 0:
        return format_name
    other = _OF_32.get(format_name, "F16")
    return other if n_cols % block_weights[other] == 0 else "F16"
