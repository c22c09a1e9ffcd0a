"""A folder's tokenizer as the tokenizer.ggml.* keys that GGUF readers understand."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, pre_tokenizers

from halfbyte.errors import FormatError, UnsupportedError
from halfbyte.tokenizer.from_hf import read_folder, read_sentencepiece
from halfbyte.tokenizer.pretokenizers import PreTokenizer, find_pretokenizer, pretokenizer_names
from halfbyte.tokenizer.vocabulary import CONTROL, NORMAL, UNKNOWN, UNUSED, Vocabulary

# Names that many readers know come first where several mean the same cuts.
_PREFERRED = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o", "deepseek-v3", "deepseek-llm", "dbrx")
# One text that tells every published pre-tokenizer from the others: letters of many scripts and cases, contractions,
# digit runs, punctuation, marks, emoji, white space of every kind.
_PROBE = (
    "Hello World, I'LL say you're 3 and 33 and 333 and 3333 and 3333333; it's CamelCase don'T __init__(self)!?\n\n\n  x  =  "
    "y+=1;\t\tréSumé naïve 日本語のテキスト 漢字カナ 中文，标点。 한국어 텍스트 Привет МИР ไทยภาษา हिन्दी العربية ١٢٣ ½ ²³ e\u0301 "
    "🦙🇩🇪👩‍💻 $100.50 €5 a|b ~`^ <|x|> #tag @user /path/to/file\r\n\r\n 'quoted' \"double\" … — “curly” (a)(b)[c]{d} \u00a0nbsp"
    "\u3000wide   \n \n  end123abc456 ÀÉ ǅ ʰ .A .b ;C\n/\n//x 12a 1,234,567  "
)


def gguf_vocabulary(folder: Path, n_vocab: int, merging: str = "") -> dict[str, Any]:
    """The keys for a model with n_vocab embeddings. merging: the kind (tokenizer.ggml.model) of vocabularies that keep
    their merges, where GGUF has scores of most others. Raises UnsupportedError for a tokenizer that GGUF cannot express."""
    vocabulary, tokenizer_json = read_folder(folder)
    metadata = dict(vocabulary.metadata)
    if tokenizer_json is not None and merging and vocabulary.model == "llama":
        metadata |= _from_merges(tokenizer_json, vocabulary, merging)
    elif tokenizer_json is not None and (folder / "tokenizer.model").is_file() and vocabulary.model == "llama":
        metadata |= _from_pieces(folder, vocabulary)
    elif tokenizer_json is not None:
        metadata |= _from_pipeline(tokenizer_json, vocabulary)
    tokens, kinds = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])
    scores = metadata.get("tokenizer.ggml.scores")
    if len(tokens) > n_vocab:
        raise FormatError(
            f"{folder}: the tokenizer has {len(tokens)} tokens, the model has embeddings for {n_vocab}.",
            hint="The tokenizer belongs to another model.",
        )
    kinds = [UNUSED if not token else kind for token, kind in zip(tokens, kinds, strict=True)]
    tokens = [token or f"[PAD{i}]" for i, token in enumerate(tokens)]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), n_vocab)]
    metadata["tokenizer.ggml.tokens"] = tokens
    metadata["tokenizer.ggml.token_type"] = kinds + [UNUSED] * (n_vocab - len(kinds))
    if scores is not None:
        metadata["tokenizer.ggml.scores"] = [float(s) for s in scores] + [-1000.0] * (n_vocab - len(scores))
    return metadata


def _from_pieces(folder: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.model's scores and kinds, where it agrees with tokenizer.json on the pieces."""
    pieces = read_sentencepiece(folder / "tokenizer.model")
    known: list[str] = pieces["tokenizer.ggml.tokens"]
    if vocabulary.tokens[: len(known)] != known or pieces["tokenizer.ggml.model"] != "llama":
        return _from_pipeline(folder / "tokenizer.json", vocabulary)
    more = len(vocabulary.tokens) - len(known)
    kinds = [
        k if k not in (NORMAL, UNUSED) else theirs
        for k, theirs in zip(pieces["tokenizer.ggml.token_type"], vocabulary.kinds, strict=False)
    ]
    return pieces | {
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.scores": pieces["tokenizer.ggml.scores"] + [-1000.0] * more,
        "tokenizer.ggml.token_type": kinds + vocabulary.kinds[len(known) :],
    }


def _from_merges(path: Path, vocabulary: Vocabulary, kind: str) -> dict[str, Any]:
    model = json.loads(path.read_text(encoding="utf-8")).get("model") or {}
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []],
        "tokenizer.ggml.token_type": _with_unknown(vocabulary, model.get("unk_token")),
        "tokenizer.ggml.add_space_prefix": False,
    }


def _from_pipeline(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    model = data.get("model") or {}
    pipeline = tokenizers.Tokenizer.from_file(str(path))
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram")
    if kind == "BPE":
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
        if vocabulary.model == "gpt2":
            return {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": find_pre(pipeline, bool(model.get("ignore_merges"))),
                "tokenizer.ggml.merges": merges,
            }
        return _sentencepiece_bpe(vocabulary, merges, model, pipeline)
    if kind == "Unigram":
        return _unigram(vocabulary, model, data.get("normalizer"), pipeline)
    raise UnsupportedError(f"{path}: tokenizers of kind {kind} cannot be converted.", hint="BPE and Unigram can.")


def _sentencepiece_bpe(vocabulary: Vocabulary, merges: list[str], model: Any, pipeline: Any) -> dict[str, Any]:
    """A SentencePiece BPE model that became tokenizer.json: its scores are the order of its merges."""
    scores: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        scores.setdefault("".join(merge.split(" ", 1)), -float(rank))
    last = -float(len(merges)) - 1
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [scores.get(t, last if k == NORMAL else 0.0) for t, k in _pairs(vocabulary)],
        "tokenizer.ggml.token_type": _with_unknown(vocabulary, model.get("unk_token")),
        "tokenizer.ggml.add_space_prefix": _puts_space_first(pipeline),
    }


def _unigram(vocabulary: Vocabulary, model: Any, normalizer: Any, pipeline: Any) -> dict[str, Any]:
    pieces = model.get("vocab") or []
    unknown = pieces[model["unk_id"]][0] if isinstance(model.get("unk_id"), int) else None
    scores = {piece: float(score) for piece, score in pieces}
    out = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [scores.get(t, 0.0) for t in vocabulary.tokens],
        "tokenizer.ggml.token_type": _with_unknown(vocabulary, unknown),
        "tokenizer.ggml.add_space_prefix": _puts_space_first(pipeline),
    }
    steps = (normalizer or {}).get("normalizers") or [normalizer or {}]
    charsmap = next((s["precompiled_charsmap"] for s in steps if s.get("type") == "Precompiled"), None)
    if charsmap:
        out["tokenizer.ggml.precompiled_charsmap"] = list(base64.b64decode(charsmap))
    return out


def _pairs(vocabulary: Vocabulary) -> list[tuple[str, int]]:
    return list(zip(vocabulary.tokens, vocabulary.kinds, strict=True))


def _with_unknown(vocabulary: Vocabulary, unknown: str | None) -> list[int]:
    return [UNKNOWN if token == unknown and kind in (NORMAL, CONTROL) else kind for token, kind in _pairs(vocabulary)]


def _puts_space_first(pipeline: Any) -> bool:
    tokens = pipeline.encode("a", add_special_tokens=False).tokens
    return bool(tokens) and tokens[0].startswith("▁")


def find_pre(pipeline: tokenizers.Tokenizer, ignore_merges: bool) -> str:
    """The name of the pre-tokenizer that cuts text as this pipeline does. Raises UnsupportedError when none does."""
    own = pipeline.pre_tokenizer
    cuts = _pieces(own) if own is not None else [_PROBE]
    names = [*_PREFERRED, *(n for n in pretokenizer_names() if n not in _PREFERRED and n != "default")]
    same = [name for name in names if (pre := find_pretokenizer(name)) and pre.byte_level and _cuts_of(pre) == cuts]
    exact = [n for n in same if (pre := find_pretokenizer(n)) and pre.ignore_merges == ignore_merges]
    if not same:
        raise UnsupportedError(
            "The tokenizer cuts text in a way that no known GGUF pre-tokenizer does (tokenizer.ggml.pre).",
            hint="The folder itself can be run.",
        )
    return (exact or same)[0]


def _pieces(pre: Any) -> list[str]:
    return [piece for piece, _ in pre.pre_tokenize_str(_PROBE)]


def _cuts_of(pre: PreTokenizer) -> list[str]:
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in pre.patterns]
    return _pieces(pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
