"""A vocabulary as a model file describes it: pieces, kinds, special ids."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from halfbyte.errors import FormatError

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Names under which models end a turn or a text; such a token ends generation, whatever kind the file gives it.
_END_NAMES = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
    "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<turn|>", "<|tool_response>", "<|return|>",
    "<|call|>", "<|calls|>", "<|flush|>", "<|eot|>", "<|END_OF_TURN_TOKEN|>", "<|end_of_turn|>", "[e~[",
)  # fmt: skip
# The same where they are control tokens; elsewhere they are tags that text may hold.
_CONTROL_END_NAMES = ("</s>", "<eos>")
# Models of code write these past the end of what fills a gap.
_FILL_END_NAMES = (
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<fim-repo>", "<|repo_name|>", "<reponame>", "<|file_sep|>",
)  # fmt: skip
# Special ids that a file may leave out, by vocabulary kind: what the piece is called there.
_USUAL_NAMES = {
    "llama": {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"},
    "t5": {"eos": "</s>", "unknown": "<unk>", "padding": "<pad>"},
    "bert": {"bos": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]", "padding": "[PAD]"},
}
_RULES = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges", "precompiled_charsmap")}


@dataclass
class Vocabulary:
    """Pieces and their kinds. ``tokens[i]`` is the piece of id i as stored in the file."""

    model: str  # gpt2, llama, t5, bert, ...
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    metadata: dict[str, Any]
    ids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Vocabulary:
        """Reads the tokenizer.ggml.* keys. Raises FormatError when they are missing or do not agree."""
        model = metadata.get("tokenizer.ggml.model")
        tokens = metadata.get("tokenizer.ggml.tokens")
        if not isinstance(model, str) or not isinstance(tokens, list) or not tokens:
            raise FormatError("The file has no vocabulary (tokenizer.ggml.model, tokenizer.ggml.tokens).")
        kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
        scores = metadata.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
        merges = metadata.get("tokenizer.ggml.merges") or []
        for name, found, kind, what in (
            ("tokens", tokens, str, "texts"),
            ("token_type", kinds, int, "whole numbers"),
            ("scores", scores, (int, float), "numbers"),
            ("merges", merges, str, "texts"),
        ):
            if not isinstance(found, list) or not all(isinstance(value, kind) for value in found):
                raise FormatError(f"tokenizer.ggml.{name} is no list of {what}.", hint="Convert the model again.")
        for name, values in (("token_type", kinds), ("scores", scores)):
            if len(values) < len(tokens):
                raise FormatError(f"tokenizer.ggml.{name} has fewer entries than the {len(tokens)} tokens.")
        vocabulary = cls(
            model=model,
            pre=str(metadata.get("tokenizer.ggml.pre") or "default"),
            tokens=tokens,
            kinds=kinds,
            scores=scores,
            merges=merges,
            metadata=metadata,
        )
        vocabulary.ids = {token: i for i, token in enumerate(tokens)}
        vocabulary.kinds = [
            CONTROL if token in _END_NAMES and kind == NORMAL else kind
            for token, kind in zip(tokens, kinds, strict=False)
        ]
        if model == "llama" and tokens[2:3] == ["</s>"]:
            vocabulary.kinds[2] = CONTROL  # some files call it user-defined, and every text could end a turn
        return vocabulary

    def without_rules(self) -> Vocabulary:
        """The same pieces without merges and scores, which only the making of a pipeline reads: most of the memory."""
        metadata = {key: value for key, value in self.metadata.items() if key not in _RULES}
        return replace(self, merges=[], scores=[], metadata=metadata)

    def special(self, name: str) -> int | None:
        """The id under ``tokenizer.ggml.<name>_token_id``, or that of the usual name, or None."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(value, int) and 0 <= value < len(self.tokens):
            return value
        return self.ids.get(_USUAL_NAMES.get(self.model, {}).get(name, ""))

    def flag(self, name: str, default: bool) -> bool:
        """``tokenizer.ggml.<name>`` as a bool."""
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        return bool(value) if value is not None else default

    @cached_property
    def end_ids(self) -> list[int]:
        """Every id that ends generation: eos, eot, eom and end-of-turn tokens known by name."""
        ids = {i for name in ("eos", "eot", "eom") if (i := self.special(name)) is not None}
        for name in _END_NAMES + _FILL_END_NAMES:
            i = self.ids.get(name)
            if i is not None and self.kinds[i] in (CONTROL, USER_DEFINED):
                ids.add(i)
        ids |= {i for name in _CONTROL_END_NAMES if (i := self.ids.get(name)) is not None and self.kinds[i] == CONTROL}
        if {"<|return|>", "<|call|>"} <= self.ids.keys() or {"<|flush|>", "<|calls|>"} <= self.ids.keys():
            ids.discard(self.ids.get("<|end|>", -1))  # in harmony and Solar it ends a message; the answer goes on
        return sorted(ids)

    @property
    def suppressed_ids(self) -> list[int]:
        """Ids that the model's makers want never to be drawn (placeholders of pictures and sounds)."""
        listed = self.metadata.get("tokenizer.ggml.suppress_tokens")
        listed = listed if isinstance(listed, list) else []
        return sorted({i for i in listed if isinstance(i, int) and 0 <= i < len(self.tokens)})
