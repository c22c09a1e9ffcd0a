"""A GGUF vocabulary as tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors

from halfbyte.tokenizer.models import SPACE, build, pretokenizer_of
from halfbyte.tokenizer.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary


def write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    """Writes both files, and generation_config.json with the tokens that end an answer."""
    vocabulary = Vocabulary.from_metadata(metadata)
    pipeline = build(vocabulary)
    _decorate(pipeline, vocabulary)
    specials = [
        AddedToken(token, special=kind != USER_DEFINED, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=False)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) and token
    ]
    pipeline.add_tokens([t for t in specials if not t.special])
    pipeline.add_special_tokens([t for t in specials if t.special])
    bos = vocabulary.special("bos")
    adds_bos = _adds_bos(vocabulary)
    if adds_bos and bos is not None:
        piece = vocabulary.tokens[bos]
        pipeline.post_processor = processors.TemplateProcessing(
            single=f"{piece}:0 $A:0", pair=f"{piece}:0 $A:0 {piece}:1 $B:1", special_tokens=[(piece, bos)]
        )
    pipeline.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = vocabulary.special(ours)
        if token is not None:
            config[f"{theirs}_token"] = vocabulary.tokens[token]
    if isinstance(metadata.get("tokenizer.chat_template"), str):
        (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", config)
    eos = vocabulary.special("eos")
    ends = [i for i in vocabulary.end_ids if i != eos]
    generation = {"bos_token_id": bos, "eos_token_id": [eos, *ends] if ends and eos is not None else eos}
    generation["suppress_tokens"] = vocabulary.suppressed_ids or None
    _write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})


def _adds_bos(vocabulary: Vocabulary) -> bool:
    by_kind = vocabulary.model in ("llama", "bert")
    if vocabulary.model == "gpt2":
        by_kind = pretokenizer_of(vocabulary).add_bos
    return vocabulary.flag("add_bos_token", by_kind)


def _decorate(pipeline: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """What halfbyte does around a pipeline, inside it: the space before the first word, and decoding."""
    if vocabulary.model == "gpt2":
        pipeline.decoder = decoders.ByteLevel()
        return
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.model == "llama" and vocabulary.flag("add_space_prefix", True):
        pipeline.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        steps.append(decoders.Strip(" ", 1, 0))
    elif vocabulary.model == "t5":
        pipeline.pre_tokenizer = pre_tokenizers.Metaspace()
        pipeline.decoder = decoders.Metaspace()
        return
    pipeline.decoder = decoders.Sequence(steps)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
