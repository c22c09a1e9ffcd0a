"""Tokenizers from a Hugging Face folder: tokenizer.json, or SentencePiece's tokenizer.model."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from halfbyte.errors import FormatError, ModelNotFoundError
from halfbyte.tokenizer.charsmap import check_object
from halfbyte.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, USER_DEFINED, Vocabulary

# Decoders of tokenizer.json -> the vocabulary kind whose pieces they spell.
_KIND_OF_DECODER = {"ByteLevel": "gpt2", "WordPiece": "bert", "Metaspace": "t5", "Sequence": "llama"}


# Ids that no token has, beyond as many as there are tokens.
_MAX_HOLES = 1 << 16


@contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """What the library raises about a file is the file's fault: plain exceptions, and panics, which are none."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{problem}: {error}") from None


def read_folder(folder: Path) -> tuple[Vocabulary, Path | None]:
    """The folder's vocabulary, and its tokenizer.json when that is what it has."""
    config = _read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(folder / "tokenizer.json", config), folder / "tokenizer.json"
    if (folder / "tokenizer.model").is_file():
        metadata = read_sentencepiece(folder / "tokenizer.model")
        return Vocabulary.from_metadata(
            metadata | _special_ids(folder, metadata["tokenizer.ggml.tokens"], config)
        ), None
    raise ModelNotFoundError(f"{folder} has neither tokenizer.json nor tokenizer.model.", hint="Name a model's folder.")


def load_pipeline(path: Path, parse_special: bool) -> tokenizers.Tokenizer:
    """tokenizer.json as it is; with parse_special False, control tokens in a text stay text."""
    pipeline = tokenizers.Tokenizer.from_file(str(path))
    pipeline.encode_special_tokens = not parse_special
    pipeline.no_truncation()
    pipeline.no_padding()
    return pipeline


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=check_object)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no JSON object.")
    return value


def _from_tokenizer_json(path: Path, config: dict[str, Any]) -> Vocabulary:
    data = _read_json(path)
    with library_errors(f"{path} is no tokenizer"):
        pipeline = tokenizers.Tokenizer.from_file(str(path))
        ids = pipeline.get_vocab(with_added_tokens=True)
        added = pipeline.get_added_tokens_decoder()
        ends = pipeline.encode("", add_special_tokens=True).ids
    n_tokens = max(ids.values(), default=-1) + 1
    if n_tokens > _MAX_HOLES + 2 * len(ids):
        raise FormatError(f"{path} has {len(ids)} tokens, one of them with the id {n_tokens - 1}.")
    tokens = [""] * n_tokens
    for token, i in ids.items():
        tokens[i] = token
    kinds = [BYTE if len(t) == 6 and t.startswith("<0x") and t.endswith(">") else NORMAL for t in tokens]
    for i, added_token in added.items():
        if i < n_tokens:
            kinds[i] = CONTROL if added_token.special else USER_DEFINED
    decoder = (data.get("decoder") or {}).get("type", "ByteLevel")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": _KIND_OF_DECODER.get(decoder, "llama"),
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": '"Strip"' in json.dumps(data.get("decoder")),
    }
    metadata |= _special_ids(path.parent, tokens, config)
    # What the pipeline itself puts around a text counts where tokenizer_config.json is silent.
    for flag, name, at in (("add_bos_token", "bos", 0), ("add_eos_token", "eos", -1)):
        special = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if special is not None:
            metadata.setdefault(f"tokenizer.ggml.{flag}", bool(ends) and ends[at] == special)
    return Vocabulary.from_metadata(metadata)


def _special_ids(folder: Path, tokens: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """The folder's special tokens, flags and chat templates under the names of GGUF metadata."""
    out: dict[str, Any] = {}
    for theirs, ours in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"), ("sep", "seperator")):
        token = config.get(f"{theirs}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in tokens:
            out[f"tokenizer.ggml.{ours}_token_id"] = tokens.index(token)
    for flag in ("add_bos_token", "add_eos_token"):
        if isinstance(config.get(flag), bool):
            out[f"tokenizer.ggml.{flag}"] = config[flag]
    generation = _read_json(folder / "generation_config.json")
    suppressed = generation.get("suppress_tokens")
    if isinstance(suppressed, list) and all(type(i) is int for i in suppressed) and suppressed:
        out["tokenizer.ggml.suppress_tokens"] = suppressed
    # It may name several tokens that end an answer: the first besides eos ends a turn, then a message.
    ends = generation.get("eos_token_id")
    ends = [i for i in (ends if isinstance(ends, list) else [ends]) if isinstance(i, int) and 0 <= i < len(tokens)]
    if ends:
        eos = out.setdefault("tokenizer.ggml.eos_token_id", ends[0])
        others = [i for i in ends if i != eos]
        out |= {f"tokenizer.ggml.{name}_token_id": i for name, i in zip(("eot", "eom"), others, strict=False)}
    return out | _chat_templates(folder, config)


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """chat_template.jinja and additional_chat_templates/, else chat_template.json, else tokenizer_config.json's."""
    found: Any = config.get("chat_template") or _read_json(folder / "chat_template.json").get("chat_template")
    listed = [t for t in found if isinstance(t, dict)] if isinstance(found, list) else []
    named = {t["name"]: t.get("template") for t in listed if isinstance(t.get("name"), str)}
    if isinstance(found, str):
        named["default"] = found
    for path in (folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))):
        if path.is_file():
            named["default" if path.parent == folder else path.stem] = path.read_text(encoding="utf-8")
    named = {k: v for k, v in named.items() if isinstance(v, str)}
    out: dict[str, Any] = {f"tokenizer.chat_template.{k}": v for k, v in named.items() if k != "default"}
    if out:
        out["tokenizer.chat_templates"] = sorted(k for k in named if k != "default")
    if "default" in named:
        out["tokenizer.chat_template"] = named["default"]
    return out


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protobuf message's fields: integers, or the bytes of the others."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise FormatError("tokenizer.model is damaged: a number has no end.")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            if kind != 2:
                raise FormatError(f"tokenizer.model is damaged: a field of kind {kind}.")
            length = varint()
        if at + length > len(data):
            raise FormatError("tokenizer.model is cut short.")
        yield key >> 3, data[at : at + length]
        at += length


def read_sentencepiece(path: Path) -> dict[str, Any]:
    """A tokenizer.model, SentencePiece's ModelProto (sentencepiece_model.proto), as GGUF metadata."""
    data = path.read_bytes()
    tokens: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    is_unigram, add_prefix, remove_spaces, charsmap = True, True, True, b""
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        fields = dict(_fields(value)) if number in (1, 2, 3) else {}
        if number == 1:
            piece, score = fields.get(1, b""), fields.get(2, b"")
            tokens.append(piece.decode("utf-8", "replace") if isinstance(piece, bytes) else "")
            scores.append(struct.unpack("<f", score)[0] if isinstance(score, bytes) and len(score) == 4 else 0.0)
            kind = fields.get(3, NORMAL)
            kinds.append(kind if isinstance(kind, int) else NORMAL)
        elif number == 2:
            is_unigram = fields.get(3, 1) == 1
        elif number == 3:
            add_prefix = bool(fields.get(3, 1))
            remove_spaces = bool(fields.get(4, 1))
            found = fields.get(2, b"")
            charsmap = found if isinstance(found, bytes) else b""
    if not tokens:
        raise FormatError("tokenizer.model holds no pieces.")
    return {
        "tokenizer.ggml.model": "t5" if is_unigram else "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": add_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": remove_spaces,
        "tokenizer.ggml.precompiled_charsmap": list(charsmap),
        "tokenizer.ggml.unknown_token_id": kinds.index(2) if 2 in kinds else 0,
    }
